import bpy

settings = bpy.context.scene.recdreamer
start = settings.start

settings.quality = "quick"
settings.texture_px = "AUTO"
settings.face_count = 0
settings.method = "usd"
settings.pose_mode = "camera"
start.run_shape = True
start.run_geometry = True
start.run_texture = True
