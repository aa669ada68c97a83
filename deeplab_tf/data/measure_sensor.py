"""Deprecated name of `deeplab_tf.data.lidar.measure_sensor`.

For the flags: python -m deeplab_tf.data.lidar.measure_sensor --help

python -m deeplab_tf.data.measure_sensor --data_dir=SCANS --output_dir=runs/sensor
"""

from deeplab_tf.data.lidar.measure_sensor import console

if __name__ == "__main__":
    console()
