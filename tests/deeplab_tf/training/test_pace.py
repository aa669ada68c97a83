"""The pace of a training, by a clock that the tests move."""

from deeplab_tf.training.pace import Pace, duration


def test_steps_are_timed_without_their_first_and_without_pauses():
    now = [0.0]
    pace = Pace(100, lambda: now[0])
    now[0] = 30.0  # the first step compiles the network
    pace.after_step(1)
    for step in range(2, 12):
        now[0] += 0.5
        pace.after_step(step)
    assert pace.report(11) == "2 steps/s, 44 s left"
    with pace.paused():
        now[0] += 60
    now[0] += 10
    assert pace.report(21) == "1 steps/s, 79 s left"


def test_a_report_after_the_first_step_has_no_pace():
    now = [5.0]
    pace = Pace(10, lambda: now[0])
    pace.after_step(1)
    assert pace.report(1) == ""
    now[0] = 7.0
    assert pace.report(2) == "0.5 steps/s, 16 s left"


def test_durations_are_in_the_unit_in_which_they_would_be_said():
    assert [duration(s) for s in (0.4, 89, 100, 5000, 7000)] == [
        *("0 s", "89 s", "2 min", "83 min", "1 h 57 min"),
    ]
