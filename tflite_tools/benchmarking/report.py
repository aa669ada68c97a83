"""Writes benchmarks and profiles as text and as JSON."""

import collections
import dataclasses

from tflite_tools.benchmarking.profile import OperatorTime, Profile, pair_operators
from tflite_tools.benchmarking.timing import Benchmark, BenchmarkOptions
from tflite_tools.evaluation.tables import kernels_line
from tflite_tools.runtime.interpreter import BUILTIN_NOTE, Kernels
from tflite_tools.text_table import align

SLOWEST = 10
QUIET = 0.9
"""Cores of an invoke on an idle machine: at least 1 for any number of threads."""
_TIMES = (
    *(("model", "<"), ("ratio", ">"), ("best ratio", ">")),
    *(("median", ">"), ("min", ">"), ("p10", ">"), ("p90", ">"), ("first", ">")),
    *(("GMAC/s", ">"), ("of peak", ">"), ("cores", ">"), ("speed-up", ">")),
)
_SIZES = (
    ("model", "<"),
    ("size MB", ">"),
    ("download MB", ">"),
    ("GMAC", ">"),
    ("memory MB", ">"),
    ("peak", "<"),
)
RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
ARGMAX = ("ARG_MAX",)
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")


def benchmark_text(
    results: list[Benchmark],
    peaks: dict[bool, Benchmark],
    *,
    options: BenchmarkOptions,
    machine: dict,
) -> str:
    """Formats sizes, one table of times per thread count, and how it was measured.

    Args:
        results: of the files.
        peaks: of the processor, by "integer".
        options: of the measurement.
        machine: of `describe_machine`.
    """
    parts = [align(list(_SIZES), [_size_row(result) for result in results])]
    for threads in options.num_threads:
        rows = [
            _time_row(result, results[0], peaks=peaks, threads=threads, options=options)
            for result in results
        ]
        rows += [
            _time_row(peaks[kind], results[0], peaks=peaks, threads=threads, options=options)
            for kind in sorted(peaks)
        ]
        parts.append(
            f"milliseconds of one invoke, {threads} thread(s)\n{align(list(_TIMES), rows)}"
        )
    parts.append(_machine_text(machine))
    working = [result for result in results if not result.failure]
    parts.append(
        f"{options.warmup} warm-up and {options.repeats} timed invokes of each file and thread "
        f"count, in turn, on seeded noise; {kernels_line(working)}. ratio, best ratio: of "
        "medians and of minima, to the first file. GMAC/s, of peak: at the minimum; the peak is "
        "one 1x1 convolution, 32x32x512 to 512, timed among the files. cores: processor time by "
        "wall time. speed-up: of minima, to the first number of threads"
    )
    notes = [f"{r.contract.name}: {BUILTIN_NOTE}" for r in results if r.kernels is Kernels.BUILTIN]
    failures = [f"{r.contract.name}: FAILED: {r.failure}" for r in results if r.failure]
    return "\n\n".join([*parts, *_disturbance([*results, *peaks.values()]), *notes, *failures])


def _disturbance(results: list[Benchmark]) -> list[str]:
    """Warns about a busy machine: on an idle one, a running thread always has its own core."""
    cores = [timing.cores for result in results for timing in result.timings.values()]
    if not cores or min(cores) >= QUIET:
        return []
    return [
        f"DISTURBED: other programs used the processor (an invoke had {min(cores):.2f} of a core): "
        "use the minima and the best ratio, not the medians or the speed-up of threads"
    ]


def _machine_text(machine: dict) -> str:
    features = " ".join(machine["features"]) or "none known"
    dots = "has" if machine["integer_dot_product"] else "has NO"
    return (
        f"{machine['processor']}, {machine['cores']} cores; features: {features}; it {dots} "
        "instructions for int8 dot products"
    )


def _size_row(result: Benchmark) -> list[str]:
    return [
        result.contract.name,
        f"{result.contract.size_bytes / 1e6:.2f}",
        f"{result.contract.download_bytes / 1e6:.2f}",
        f"{result.multiply_adds / 1e9:.3f}",
        "-" if result.memory_mb is None else f"{result.memory_mb:.0f}",
        "int8" if result.integer else "float32",
    ]


def _time_row(
    result: Benchmark,
    first: Benchmark,
    *,
    peaks: dict[bool, Benchmark],
    threads: int,
    options: BenchmarkOptions,
) -> list[str]:
    if threads not in result.timings:
        return [result.contract.name, "failed", *("-" * (len(_TIMES) - 2))]
    timing = result.timings[threads]
    ratios = ["-", "-"]
    if base := first.timings.get(threads):
        ratios = [f"{timing.median / base.median:.3f}", f"{timing.minimum / base.minimum:.3f}"]
    times = (timing.median, timing.minimum, timing.p10, timing.p90, timing.first)
    return [
        result.contract.name,
        *ratios,
        *(f"{ms:.2f}" for ms in times),
        f"{result.speed(threads):.1f}",
        f"{100 * result.speed(threads) / peaks[result.integer].speed(threads):.1f}%",
        f"{timing.cores:.2f}",
        f"{result.timings[options.num_threads[0]].minimum / timing.minimum:.2f}",
    ]


def profile_text(profile: Profile, num_threads: tuple[int, ...], *, peak: float) -> str:
    """Formats the time by kind of kernel, operators outside the delegate, and the slowest layers.

    Args:
        profile: of one file.
        num_threads: thread counts of the measurement.
        peak: 10^9 multiply-adds per second of the processor with the first thread count.
    """
    title = f"profile of {profile.name}"
    if profile.failure:
        return f"{title}: no times of operators: {profile.failure}"
    first = num_threads[0]
    lines = [
        title,
        align(_kind_header(num_threads), _kind_rows(profile, num_threads, peak=peak)),
        _delegate_text(profile),
        "share of time: "
        + ", ".join(
            f"{name} {100 * profile.share(first, *kinds):.1f}%"
            for name, kinds in (
                ("resize", RESIZES),
                ("argmax", ARGMAX),
                ("quantize, dequantize, cast", CONVERSIONS),
            )
        ),
        _whole_text(profile, num_threads),
        align(
            [("slowest", "<"), ("kernel", "<"), ("ms", ">"), ("share", ">"), ("GMAC/s", ">")],
            [_slow_row(profile, operator, threads=first) for operator in _slowest(profile, first)],
        ),
    ]
    return "\n".join(lines)


def _kind_header(num_threads: tuple[int, ...]) -> list[tuple[str, str]]:
    header = [("operators", "<"), ("kernel", "<"), ("count", ">")]
    header += [(f"ms, {threads} thread(s)", ">") for threads in num_threads]
    header += [("share", ">"), ("GMAC/s", ">"), ("of peak", ">")]
    return header + ([("speed-up", ">")] if len(num_threads) > 1 else [])


def _kind_rows(profile: Profile, num_threads: tuple[int, ...], *, peak: float) -> list[list[str]]:
    groups: dict[tuple[str, str], list[OperatorTime]] = collections.defaultdict(list)
    for operator in profile.operators:
        groups[operator.label, operator.kernel].append(operator)
    first = num_threads[0]
    rows = []
    total = profile.total(first) or 1.0
    for (kind, kernel), members in groups.items():
        sums = [sum(o.ms[threads] for o in members) for threads in num_threads]
        count = sum(o.multiply_adds for o in members)
        row = [kind, kernel, str(len(members)), *(f"{ms:.3f}" for ms in sums)]
        row += [f"{100 * sums[0] / total:.1f}%", _speed(count, sums[0])]
        row.append(f"{100 * count / sums[0] / 1e6 / peak:.0f}%" if count and sums[0] else "-")
        if len(num_threads) > 1:
            row.append(f"{sums[0] / sums[-1]:.2f}" if sums[-1] else "-")
        rows.append((sums[0], row))
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def _speed(multiply_adds: int, ms: float) -> str:
    return f"{multiply_adds / ms / 1e6:.1f}" if multiply_adds and ms else "-"


def _delegate_text(profile: Profile) -> str:
    left = [o for o in profile.operators if o.kernel == "builtin"]
    kinds = collections.Counter(o.kind for o in left)
    names = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none"
    silent = collections.Counter(line.split()[0] for line in profile.silent)
    text = (
        f"delegate: {profile.delegated} operators in {profile.partitions} partition(s); "
        f"left to builtin kernels, which use one or few threads: {names}"
    )
    if silent:
        counted = ", ".join(f"{kind} {count}" for kind, count in silent.most_common())
        text += f"; without a time of their own (done at loading, fused or in place): {counted}"
    return text


def _whole_text(profile: Profile, num_threads: tuple[int, ...]) -> str:
    wholes = ", ".join(
        f"{profile.whole_ms[threads]:.2f} ms with {threads} thread(s)" for threads in num_threads
    )
    sums = ", ".join(f"{profile.total(threads):.2f}" for threads in num_threads)
    return (
        f"fastest whole invoke under the profiler: {wholes}; the fastest of each operator add up "
        f"to {sums} (times here are the fastest of all invokes)"
    )


def _slowest(profile: Profile, threads: int) -> list[OperatorTime]:
    return sorted(profile.operators, key=lambda o: -o.ms[threads])[:SLOWEST]


def _slow_row(profile: Profile, operator: OperatorTime, *, threads: int) -> list[str]:
    ms = operator.ms[threads]
    return [
        f"{operator.kind} {operator.layer}".strip() or "?",
        operator.kernel,
        f"{ms:.3f}",
        f"{100 * ms / (profile.total(threads) or 1.0):.1f}%",
        _speed(operator.multiply_adds, ms),
    ]


def comparison_text(first: Profile, second: Profile, *, threads: int) -> str:
    """Compares two files layer by layer: sums by kind, and the slowest layers.

    Args:
        first: the file that is compared with.
        second: the other file.
        threads: thread count.
    """
    pairs = pair_operators(first, second)
    if not pairs:
        return f"{first.name} and {second.name}: layer names do not match, nothing to compare"
    groups: dict[str, list[tuple[OperatorTime, OperatorTime]]] = collections.defaultdict(list)
    for pair in pairs:
        groups[pair[0].kind].append(pair)
    header = [("operators", "<"), ("count", ">"), (first.name, ">"), (second.name, ">")]
    header.append(("speed-up", ">"))
    rows = sorted(
        (_pair_row(kind, group, threads=threads) for kind, group in groups.items()),
        key=_negative_time,
    )
    layers = sorted(pairs, key=lambda pair: -pair[1].ms[threads])[:SLOWEST]
    slow = [_pair_row(f"{b.kind} {b.layer}", [(a, b)], threads=threads) for a, b in layers]
    unpaired = [
        f"{profile.name}: {sum(o.ms[threads] for o in profile.operators) - matched:.3f} ms of "
        f"{len(profile.operators) - len(pairs)} operators that only it has"
        for profile, matched in (
            (first, sum(a.ms[threads] for a, _ in pairs)),
            (second, sum(b.ms[threads] for _, b in pairs)),
        )
    ]
    return "\n".join(
        [
            f"{first.name} and {second.name}, ms, {threads} thread(s), layers by name",
            align(header, rows),
            *unpaired,
            f"the {len(slow)} layers that {second.name} spends most on",
            align(header, slow),
        ]
    )


def _negative_time(row: list[str]) -> float:
    return -float(row[3])


def _pair_row(
    title: str, pairs: list[tuple[OperatorTime, OperatorTime]], *, threads: int
) -> list[str]:
    before, after = (sum(pair[side].ms[threads] for pair in pairs) for side in (0, 1))
    gain = f"{before / after:.2f}" if after else "-"
    return [title, str(len(pairs)), f"{before:.3f}", f"{after:.3f}", gain]


def benchmark_json(
    results: list[Benchmark],
    peaks: dict[bool, Benchmark],
    *,
    options: BenchmarkOptions,
    machine: dict,
    profiles: list[Profile],
    versions: dict[str, str],
) -> dict:
    """Returns all results for JSON.

    Args:
        results: of the files.
        peaks: of the processor, by "integer".
        options: of the measurement.
        machine: of `describe_machine`.
        profiles: of the files, may be empty.
        versions: of the software.
    """
    return {
        "options": dataclasses.asdict(options),
        "versions": versions,
        "machine": machine,
        "models": [
            _result_json(result, peaks) | {"download_bytes": result.contract.download_bytes}
            for result in results
        ],
        "peaks": [_result_json(peak, peaks) for peak in peaks.values()],
        "profiles": [_profile_json(profile) for profile in profiles],
    }


def _result_json(result: Benchmark, peaks: dict[bool, Benchmark]) -> dict:
    return {
        "model": result.contract.name,
        "file": result.contract.path.name,
        "size_bytes": result.contract.size_bytes,
        "multiply_adds": result.multiply_adds,
        "peak": "int8" if result.integer else "float32",
        "memory_mb": result.memory_mb,
        "kernels": result.kernels,
        "failure": result.failure,
        "threads": {
            str(threads): {
                **dataclasses.asdict(timing),
                "multiply_adds_per_second": result.speed(threads) * 1e9,
                "fraction_of_peak": result.speed(threads) / peaks[result.integer].speed(threads),
            }
            for threads, timing in result.timings.items()
        },
    }


def _profile_json(profile: Profile) -> dict:
    values = dataclasses.asdict(profile)
    values["operators"] = [dataclasses.asdict(operator) for operator in profile.operators]
    return values
