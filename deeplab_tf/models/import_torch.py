"""Deprecated name of `deeplab_tf.weights.import_torch`.

For the flags: python -m deeplab_tf.weights.import_torch --help

python -m deeplab_tf.models.import_torch --weights=resnet18.pth --backbone=resnet18 --output=w.npz
"""

from deeplab_tf.weights.import_torch import console

if __name__ == "__main__":
    console()
