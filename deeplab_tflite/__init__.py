"""The Python interface: one function for each job, the same that the commands call.

    import deeplab_tflite as dt

    scores = dt.evaluate(["float32.tflite", "int8.tflite"], dt.open_dataset("folder", "photos"))
    scores.to_dataframe()

Nothing is printed. Progress bars appear on a terminal only; TQDM_DISABLE=1 switches them off.
"""

from typing import TYPE_CHECKING, Any

# First: it chooses Keras 2, which must stand in the environment before TensorFlow is imported.
from deeplab_tf import __version__

if TYPE_CHECKING:
    from deeplab_tflite.files import (
        EvaluationOptions,
        Findings,
        Masks,
        Preprocessing,
        Scores,
        SegmentationDataset,
        SegmentationOptions,
        diagnose,
        evaluate,
        open_dataset,
        segment,
    )
    from deeplab_tflite.networks import (
        BiasMethod,
        ComparisonRequest,
        ExportedFiles,
        ExportRequest,
        Head,
        ImportConfig,
        ImportedNetwork,
        IoDtype,
        MethodScores,
        PostTraining,
        QuantizedFile,
        RangeMethod,
        Target,
        TrainedRun,
        TrainingConfig,
        Variant,
        compare,
        export,
        import_tflite,
        quantize,
        train,
        training_config,
    )

__all__ = [
    "BiasMethod",
    "ComparisonRequest",
    "EvaluationOptions",
    "ExportRequest",
    "ExportedFiles",
    "Findings",
    "Head",
    "ImportConfig",
    "ImportedNetwork",
    "IoDtype",
    "Masks",
    "MethodScores",
    "PostTraining",
    "Preprocessing",
    "QuantizedFile",
    "RangeMethod",
    "Scores",
    "SegmentationDataset",
    "SegmentationOptions",
    "Target",
    "TrainedRun",
    "TrainingConfig",
    "Variant",
    "__version__",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "import_tflite",
    "open_dataset",
    "quantize",
    "segment",
    "train",
    "training_config",
]


def __getattr__(name: str) -> Any:
    # On first use: what only reads and runs files must not wait for TensorFlow to start, and
    # `import deeplab_tflite` for neither.
    if name in __all__:
        from deeplab_tflite import files  # noqa: PLC0415

        if hasattr(files, name):
            return getattr(files, name)
        from deeplab_tflite import networks  # noqa: PLC0415

        return getattr(networks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
