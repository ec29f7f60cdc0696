// A stand-in for the job compiler of Flamenco: runs a job type on settings, and prints the tasks as JSON.
//
//     node stand_in.mjs recdreamer.js '{"folder": "{jobs}/bear"}'
//
// Of the interface in Flamenco's manual: the settings of JOB_TYPE with their types, defaults and choices; `author.Task`,
// `author.Command`, `addCommand`, `addDependency`, `job.addTask`. Anything else a script calls is an error.

import { readFileSync } from "node:fs";
import vm from "node:vm";

const TYPES = { string: "string", int32: "number", float: "number", bool: "boolean" };
const FIELDS = ["key", "type", "subtype", "choices", "propargs", "description", "label", "default", "eval", "visible",
    "required", "editable"];
const VISIBLE = ["visible", "hidden", "submission", "web"];

class Command {
    constructor(name, parameters) {
        if (name !== "exec" || typeof parameters.exe !== "string" || !Array.isArray(parameters.args)
            || parameters.args.some((word) => typeof word !== "string")) {
            throw new Error("exec takes the texts exe and args");
        }
        this.name = name;
        this.parameters = parameters;
    }
}

class Task {
    constructor(name, type) {
        if (typeof name !== "string" || typeof type !== "string" || type === "") {
            throw new Error("a task has a name and a type");
        }
        this.name = name;
        this.type = type;
        this.commands = [];
        this.dependencies = [];
    }

    addCommand(command) {
        if (!(command instanceof Command)) throw new Error("no command");
        this.commands.push(command);
    }

    addDependency(task) {
        if (!(task instanceof Task) || task === this) throw new Error("no other task");
        this.dependencies.push(task);
    }
}

const author = { Task: (name, type) => new Task(name, type), Command: (name, parameters) => new Command(name, parameters) };
const [script, given] = [readFileSync(process.argv[2], "utf8"), JSON.parse(process.argv[3])];
// Flamenco evaluates the script with "author" as a global, reads JOB_TYPE and calls compileJob.
const context = vm.createContext({ author, Error, String });
vm.runInContext(`${script}\n;globalThis.type = JOB_TYPE; globalThis.compile = compileJob;`, context);

const settings = {};
for (const setting of context.type.settings) {
    const odd = Object.keys(setting).filter((field) => !FIELDS.includes(field));
    if (odd.length || !(setting.type in TYPES)) throw new Error(`setting ${setting.key} has odd ${odd} or type`);
    if ("visible" in setting && !VISIBLE.includes(setting.visible)) throw new Error(`setting ${setting.key}: visible`);
    const value = setting.key in given ? given[setting.key] : setting.default;
    if (value === undefined && setting.required) throw new Error(`setting ${setting.key} is required`);
    if (value !== undefined && typeof value !== TYPES[setting.type]) throw new Error(`setting ${setting.key}: type`);
    if (setting.choices && !setting.choices.includes(value)) throw new Error(`setting ${setting.key}: no choice`);
    settings[setting.key] = value;
}

const tasks = [];
context.compile({
    settings,
    addTask(task) {
        // The manager stores tasks in this order, and looks a dependency up among those that it has.
        if (task.dependencies.some((other) => !tasks.includes(other))) throw new Error("depends on a task that is not added");
        if (task.commands.length === 0) throw new Error("a task without commands");
        tasks.push(task);
    },
});
console.log(JSON.stringify(tasks.map((task) => ({
    name: task.name,
    type: task.type,
    after: task.dependencies.map((other) => other.name),
    commands: task.commands.map(({ parameters }) => [parameters.exe, ...parameters.args]),
}))));
