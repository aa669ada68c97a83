"""What a grid of trainings found, read from its folder: scores, intervals, times, one page.

It stands here and not beside `deeplab_tf.study`, which runs the grid, because it runs files; the
two meet in the study's folder and in the command deeplab_tf.compare.
"""
