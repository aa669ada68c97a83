"""What the report says first: which file to ship, and why."""

from tflite_tools.html_report import summary


def model(name, *, miou, change=None, size=1_000_000, ms=10.0, head="logits", warnings=()):
    low, high = change[1:] if change else (None, None)
    return {
        "model": name,
        "variant": name.removesuffix("_argmax"),
        "head": head,
        "failure": "",
        "miou": miou,
        "size_bytes": size,
        "latency_ms": {"median": ms} if ms else None,
        "warnings": list(warnings),
        "classes_counted": 3,
        "changed_over": ["a", "b", "c"],
        "iou_change": {},
        "miou_change": change
        and {
            "difference": change[0],
            "low": low,
            "high": high,
            "independent": 7,
            "too_few": low is None,
        },
    }


def document(*models, reference="float32"):
    base = model("float32", miou=0.7, size=4_000_000, ms=20.0)
    return {"models": [base, *models], "reference": reference, "classes": []}


def test_the_fastest_file_without_a_shown_loss_is_recommended():
    lost = model("int8", miou=0.69, change=(-0.01, -0.02, -0.005), ms=5.0)
    kept = model("qat_int8", miou=0.701, change=(0.001, -0.003, 0.004), ms=8.0)
    slow = model("float16", miou=0.7, change=(0.0, -0.001, 0.001), size=2_000_000)
    assert summary.recommendation(document(lost, kept, slow)) == (
        "Ship qat_int8: 4.0 times smaller and 2.5 times faster than float32, mIoU 70.10 %, "
        "no loss is shown on this list (+0.10 [−0.30, +0.40] points)."  # noqa: RUF001
    )


def test_without_times_the_smallest_one_is():
    small = model("a", miou=0.7, change=(0.0, -0.1, 0.1), ms=None)
    large = model("b", miou=0.7, change=(0.0, -0.1, 0.1), ms=None, size=3_900_000)
    found = summary.recommendation(document(large, small))
    assert found.startswith("Ship a: 4.0 times smaller than float32")
    found = summary.recommendation(document(large))
    assert found == "No file is smaller, faster or shown to be better than float32."
    better = model("c", miou=0.8, change=(0.1, 0.05, 0.2), ms=None, size=4_000_000)
    found = summary.recommendation(document(better))
    assert found.startswith("Ship c: not smaller than float32, mIoU 80.00 %, above it on this list")


def test_where_every_file_loses_the_least_loss_is_named():
    first = model("a", miou=0.6, change=(-0.1, -0.2, -0.05))
    second = model("b", miou=0.65, change=(-0.05, -0.07, -0.02))
    found = summary.recommendation(document(first, second))
    assert found.startswith("Every file is below float32; b loses least: −5.00 ")  # noqa: RUF001


def test_few_photos_recommend_nothing():
    found = summary.recommendation(document(model("a", miou=0.9, change=(0.2, None, None))))
    assert found.startswith("Too few independent images (7)")
    assert summary.recommendation(document()) == ""
    assert summary.recommendation(document(reference=None)) == ""


def test_class_maps_with_the_same_masks_are_folded():
    files = (
        model("int8", miou=0.69, change=(-0.01, -0.02, 0.005)),
        model("int8_argmax", miou=0.6901, change=(-0.01, -0.02, 0.005), head="argmax"),
        model("other_argmax", miou=0.5, change=(-0.2, -0.3, -0.1), head="argmax"),
    )
    assert summary.same_masks(document(*files)) == {"int8_argmax": "int8"}
    first, second = summary.findings(document(*files))
    assert first.endswith("; the same masks as a class map: int8_argmax.")
    assert second.startswith("other_argmax")


def test_equal_warnings_stand_once():
    files = model("a", miou=0.5, warnings=["x", "y"]), model("b", miou=0.5, warnings=["x"])
    assert summary.warnings(document(*files)) == [("x", ["a", "b"]), ("y", ["a"])]
