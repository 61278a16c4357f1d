"""A reward function that does what the row's column `does` says, as users' functions now and then do. Read by name, from a file."""

import os
import signal
import time


def reward(prompts, completions, does, **columns):
    """One score a completion; by rank within the group on rows that do nothing odd, so that a split group would show."""
    what = does[0]
    if what == "raise":
        raise KeyError("no such key")
    if what == "sleep":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
        time.sleep(600)
    if what == "c_code" or (what == "c_code_unless_right" and completions != columns["ground_truth"]):
        pow(7**300_000, 7**300_000, 3**300_000)
    if what == "fork":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
        time.sleep(600)
    if what == "allocate":
        bytearray(50 << 30)
    if what == "exit":
        os._exit(3)
    if what == "not_for_me":
        return None
    values = {"nan": float("nan"), "string": "1.0", "minus": -1}
    if what in values:
        return [values[what]] * len(completions)
    scores = [i / len(completions) for i in range(len(completions))]
    return scores[:-1] if what == "too_few" else scores
