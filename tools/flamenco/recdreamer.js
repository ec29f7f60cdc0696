// A job type for Flamenco 3: a RecDreamer job folder, with a task for each stage. See docs/cluster.md.
// Copy it into the folder "scripts" beside flamenco-manager.

const JOB_TYPE = {
    label: "RecDreamer",
    description: "Generate a textured mesh from a job folder, stage by stage",
    settings: [
        {
            key: "folder", type: "string", subtype: "dir_path", required: true,
            description: "Job folder on the shared storage. Begin it with a two-way variable, such as {jobs}/bear",
        },
        {
            key: "stages", type: "string", default: "shape geometry texture", required: true,
            description: "Stages of the job, as in its job.json; each becomes a task",
        },
        {
            key: "again", type: "string", choices: ["nothing", "shape", "geometry", "texture"], default: "nothing",
            description: "Stage to repeat with another seed, with all later ones",
        },
        { key: "seed", type: "int32", default: 0, description: "Seed of the repeated stages" },
        {
            key: "task_type", type: "string", default: "misc", visible: "submission",
            description: "Task type; only workers with this type in their task_types get the tasks",
        },
    ],
};

const STAGES = ["shape", "geometry", "texture"];

function compileJob(job) {
    const settings = job.settings;
    const wanted = settings.stages.split(/[\s,]+/).filter((word) => word.length > 0);
    const unknown = wanted.filter((stage) => STAGES.indexOf(stage) < 0);
    if (unknown.length > 0) {
        throw new Error(`There is no stage ${unknown[0]}; there are ${STAGES.join(", ")}.`);
    }
    if (settings.folder.replace(/[\s/\\]/g, "") === "") {
        throw new Error("The job folder is missing.");
    }
    const repeats = settings.again && settings.again !== "nothing";
    const stages = STAGES.filter((stage) => wanted.indexOf(stage) >= 0);
    if (repeats && stages.indexOf(settings.again) < 0) {
        throw new Error(`The job has no stage ${settings.again} to repeat.`);
    }
    const due = repeats ? stages.slice(stages.indexOf(settings.again)) : stages;
    if (due.length === 0) {
        throw new Error("The job has no stage.");
    }

    let before = null;
    due.forEach((stage, index) => {
        const args = ["run", settings.folder];
        if (repeats) {
            // Every task says so: a repeat that is under way goes on, and a task that is repeated does no harm.
            args.push("--again", settings.again, "--seed", String(settings.seed));
        }
        if (index < due.length - 1) {
            args.push("--until", stage); // The last task makes the mesh, too.
        }
        const task = author.Task(stage, settings.task_type);
        task.addCommand(author.Command("exec", { exe: "{recdreamer}", args: args }));
        if (before !== null) {
            task.addDependency(before);
        }
        job.addTask(task);
        before = task;
    });
}
