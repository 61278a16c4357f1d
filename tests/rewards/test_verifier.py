"""What importing the rewards costs: asked in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

REWARDS = Path(__file__).parents[2] / "rewards"
HEAVY = (
    "torch",
    "ray",
    "transformers",
    "deepspeed",
    "datasets",
    "sympy",
    "math_verify",
    "latex2sympy2_extended",
    "antlr4",
)


def modules_after(statements):
    script = f"import json, sys\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    return json.loads(
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60).stdout
    )


def test_importing_and_judging_integers_needs_nothing_heavy():
    names = [path.stem for path in REWARDS.glob("*.py") if path.stem != "checker"]  # the checker is the worker's side
    assert "judge" in names and "math_answer" in names
    imports = "\n".join(f"import mimosa.rewards.{name}" for name in names)
    judging = (
        "from mimosa.records import Prompt\n"
        "verifier = mimosa.rewards.registry.create('math', {}, 5.0)\n"
        "row = Prompt(id='p', prompt='', verifier='math', ground_truth='1/2')\n"
        "assert verifier.score(r'\\boxed{0.50}', row).score == 1.0"
    )
    loaded = {name.partition(".")[0] for name in modules_after(f"{imports}\n{judging}")}
    assert loaded.isdisjoint(HEAVY)
    assert "mimosa" in loaded


def test_the_checker_needs_sympy_but_neither_torch_nor_ray():
    loaded = {name.partition(".")[0] for name in modules_after("import mimosa.rewards.checker")}
    assert "sympy" in loaded
    assert loaded.isdisjoint({"torch", "ray", "transformers", "deepspeed"})
