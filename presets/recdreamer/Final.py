import bpy

settings = bpy.context.scene.recdreamer
start = settings.start

settings.quality = "final"
settings.texture_px = "4096"
settings.face_count = 100000
settings.method = "usd"
settings.pose_mode = "camera"
start.run_shape = True
start.run_geometry = True
start.run_texture = True
