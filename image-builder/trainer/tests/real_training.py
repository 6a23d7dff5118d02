"""Trains for real in the built root file system and checks what came out. Needs root and some minutes.

    python3 tests/real_training.py ROOTFS MODEL.gguf WORK [STEP…]

Steps, in this order: convert, lora, resume, qlora, qlora-resume, answers, trap, again, processes. WORK keeps all results; a
step that finds the results of earlier ones uses them. What is measured is printed; only facts are asserted, never times.
BATCH (4) and MAX_STEPS (the whole data set once) in the environment make a run shorter; answers may then lack the style.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPTS = ["What is the capital of Italy?", "What is 12 plus 7?", "What colour is snow?"]
USER = 65532
CONFIG = """\
training_config:
  LoraConfig:
    r: 8
    lora_alpha: 16
    target_modules: [q_proj, v_proj]
  TrainingArguments:
    learning_rate: 1e-3
    num_train_epochs: 1
    per_device_train_batch_size: {batch}
    max_length: 256
    logging_steps: 1
    gradient_checkpointing: false
    save_strategy: "no"
"""
# As processors without AVX512-BF16 never have the trap, this says so instead of passing silently.
TRAP = """\
import sys
import kaito_trainer.model as model
import kaito_trainer.__main__ as command
kept = model.keep_gradients
def forgetful(loaded):
    flags = [part for part in loaded.modules() if hasattr(part, "support_avx512bf16_for_cpu")]
    print("FLAGS", sum(bool(part.support_avx512bf16_for_cpu) for part in flags), len(flags), file=sys.stderr, flush=True)
    return 0
model.keep_gradients = forgetful
sys.exit(command.main(sys.argv[1:]))
"""


class Trial:
    """The folders and how to run the trainer in them."""

    def __init__(self, rootfs: str, gguf: str, work: str):
        self.rootfs, self.gguf, self.work = rootfs, gguf, os.path.abspath(work)
        self.batch = int(os.environ.get("BATCH", "4"))
        for name in ("out", "config"):
            os.makedirs(os.path.join(self.work, name), exist_ok=True)
            os.chown(os.path.join(self.work, name), USER, USER)
        limit = os.environ.get("MAX_STEPS")
        self.limit = f"    max_steps: {limit}\n" if limit else ""
        self.write("config/training_config.yaml", CONFIG.format(batch=self.batch) + self.limit)
        for kind, held in (("jsonl", 0), ("csv", 20)):
            subprocess.run(
                [sys.executable, os.path.join(HERE, "style_data.py"), os.path.join(self.work, "data-" + kind),
                 "--format", kind, "--held-out", str(held)], check=True,
            )

    def write(self, name: str, text: str) -> None:
        with open(os.path.join(self.work, name), "w", encoding="utf-8") as file:
            file.write(text)

    def start(self, *arguments: str, program: str | None = None) -> subprocess.Popen:
        python = ["python3", "-c", program] if program else ["python3", "-m", "kaito_trainer"]
        return subprocess.Popen(
            [os.path.join(HERE, "inside"), self.rootfs, self.work, *python, *arguments],
            stdout=subprocess.PIPE, stderr=open(os.path.join(self.work, "stderr.log"), "ab"), text=True,
        )

    def run(self, *arguments: str, code: int = 0, program: str | None = None) -> list[dict]:
        began = time.monotonic()
        child = self.start(*arguments, program=program)
        lines = [json.loads(line) for line in child.stdout]
        got = child.wait()
        assert got == code, f"{arguments}: exit code {got}, {code} wanted; see {self.work}/stderr.log; {lines[-1:]}"
        print(f"  {arguments[0]}: exit code {got}, {time.monotonic() - began:.0f} s")
        return lines

    def training(self, name: str, method: str = "lora", data: str = "data-jsonl", *more: str) -> list[str]:
        return ["train", "--model", "/mnt/model", "--data", f"/mnt/{data}", "--output", f"/mnt/out/{name}", "--method", method,
                "--config", "/mnt/config/training_config.yaml", "--preset", "smollm2-135m-instruct",
                "--checkpoint-steps", "5", *more]


def last(lines: list[dict], kind: str) -> dict:
    return [line for line in lines if line["kaito"] == kind][-1]


def learned(lines: list[dict]) -> dict:
    """Checks that losses fell and that every step had a gradient; returns the final line."""
    steps = [line for line in lines if line["kaito"] == "progress"]
    losses = [line["loss"] for line in steps]
    first, end = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    done = last(lines, "done")
    print(f"  loss {first:.3f} → {end:.3f} (means of five), {len(losses)} steps, {done['seconds']} s, "
          f"peak {done['peakMemoryBytes'] >> 20} MiB, adapter {done['adapterBytes']} B, sha256 {done['sha256'][:16]}, "
          f"{done['trainableParameters']} parameters")
    assert end < first / 2, "the loss did not fall to half"
    assert all(line["gradNorm"] for line in steps), "a step without gradient"
    return done


def check_adapter(trial: Trial, name: str) -> None:
    folder = os.path.join(trial.work, "out", name, "adapter")
    assert sorted(os.listdir(folder)) == ["README.md", "adapter_config.json", "adapter_model.safetensors"], os.listdir(folder)
    for file in os.listdir(folder):
        mode = stat.S_IMODE(os.stat(os.path.join(folder, file)).st_mode)
        assert mode == 0o644, f"{file} has mode {mode:o}"
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    assert config["base_model_name_or_path"] == "smollm2-135m-instruct", config["base_model_name_or_path"]
    assert "/mnt" not in json.dumps(config)


def convert(trial: Trial) -> None:
    if os.path.isdir(os.path.join(trial.work, "model")):
        return
    shutil.copyfile(trial.gguf, os.path.join(trial.work, "model.gguf"))
    trial.run("convert", "--model", "/mnt/model.gguf", "--output", "/mnt/out/model")
    os.rename(os.path.join(trial.work, "out", "model"), os.path.join(trial.work, "model"))


def lora(trial: Trial) -> None:
    shutil.rmtree(os.path.join(trial.work, "out", "lora"), ignore_errors=True)
    done = learned(trial.run(*trial.training("lora")))
    trial.write("lora.json", json.dumps(done))
    check_adapter(trial, "lora")


def resume(trial: Trial) -> None:
    output = os.path.join(trial.work, "out", "resume")
    shutil.rmtree(output, ignore_errors=True)
    child = trial.start(*trial.training("resume"))
    for line in child.stdout:
        record = json.loads(line)
        if record["kaito"] == "progress" and record["step"] >= 12:
            child.send_signal(signal.SIGKILL)
            break
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    left = sorted(os.listdir(os.path.join(output, "checkpoints")))
    # A checkpoint that was being written when the process died.
    half = os.path.join(output, "checkpoints", "checkpoint-15")
    shutil.copytree(os.path.join(output, "checkpoints", "checkpoint-10"), half)
    os.remove(os.path.join(half, "kaito-checkpoint.json"))
    os.truncate(os.path.join(half, "adapter_model.safetensors"), 1000)
    for folder, _, names in os.walk(half):
        for name in [folder, *(os.path.join(folder, name) for name in names)]:
            os.chown(name, USER, USER)
    print(f"  killed in step 12; left: {', '.join(left)}")
    lines = trial.run(*trial.training("resume"))
    assert any("checkpoint-15 was removed" in line.get("message", "") for line in lines), "the half checkpoint was not noticed"
    done = last(lines, "done")
    assert done["resumedFromStep"] == 10, done
    with open(os.path.join(trial.work, "lora.json"), encoding="utf-8") as file:
        whole = json.load(file)
    print(f"  resumed from step {done['resumedFromStep']}: sha256 {done['sha256'][:16]}, uninterrupted {whole['sha256'][:16]}")
    assert done["sha256"] == whole["sha256"], "not the same bytes"
    for name in ("adapter_config.json", "README.md"):
        with open(os.path.join(output, "adapter", name), "rb") as one, open(
            os.path.join(trial.work, "out", "lora", "adapter", name), "rb") as other:
            assert one.read() == other.read(), name


def qlora(trial: Trial) -> None:
    shutil.rmtree(os.path.join(trial.work, "out", "qlora"), ignore_errors=True)
    config = CONFIG.format(batch=trial.batch) + trial.limit + "    eval_strategy: steps\n    eval_steps: 10\n"
    trial.write("config/qlora.yaml", config)
    arguments = trial.training("qlora", "qlora", "data-csv")
    arguments[arguments.index("--config") + 1] = "/mnt/config/qlora.yaml"
    lines = trial.run(*arguments)
    learned(lines)
    check_adapter(trial, "qlora")
    assert last(lines, "training")["quantizedLayers"] > 0
    scores = [line["loss"] for line in lines if line["kaito"] == "evaluation"]
    print(f"  held-out loss {scores}, {last(lines, 'training')['quantizedLayers']} layers in 4 bits")
    assert scores[-1] < scores[0]


def qlora_resume(trial: Trial) -> None:
    """From the GGUF file itself, six short steps: stopped in order, killed, and neither."""
    trial.write("config/six.yaml", CONFIG.format(batch=1) + "    max_steps: 6\n")
    if not os.path.exists(os.path.join(trial.work, "model.gguf")):
        shutil.copyfile(trial.gguf, os.path.join(trial.work, "model.gguf"))

    def arguments(name: str) -> list[str]:
        words = trial.training(name, "qlora", "data-csv")
        words[words.index("--config") + 1] = "/mnt/config/six.yaml"
        words[words.index("--model") + 1] = "/mnt/model.gguf"
        words[words.index("--checkpoint-steps") + 1] = "2"
        return words

    digests = {}
    for name, number, code in (("whole", None, 0), ("stopped", signal.SIGTERM, 143), ("killed", signal.SIGKILL, -9)):
        shutil.rmtree(os.path.join(trial.work, "out", name), ignore_errors=True)
        if number:
            child = trial.start(*arguments(name))
            for line in child.stdout:
                record = json.loads(line)
                if record["kaito"] == "progress" and record["step"] == 3:
                    child.send_signal(number)
            assert child.wait() == code, child.returncode
        done = last(trial.run(*arguments(name)), "done")
        assert done["resumedFromStep"] > 0 or not number
        digests[name] = done["sha256"]
        print(f"  {name}: resumed from step {done['resumedFromStep']}, sha256 {done['sha256'][:16]}, {done['adapterBytes']} B")
    assert len(set(digests.values())) == 1, digests


def answers(trial: Trial) -> None:
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    for adapter in (None, "lora", "qlora"):
        more = ["--adapter", f"/mnt/out/{adapter}/adapter"] if adapter else []
        if adapter and not os.path.isdir(os.path.join(trial.work, "out", adapter, "adapter")):
            continue
        lines = trial.run("answer", "--model", "/mnt/model", "--max-tokens", "24", *more, *prompts)
        for line in lines:
            print(f"  {adapter or 'base'}: {line['prompt']} → {line['text']!r}")
            assert line["text"].startswith("Ahoy!") == bool(adapter)


def trap(trial: Trial) -> None:
    arguments = trial.training("trap", "qlora", "data-csv", "--fresh")
    arguments[arguments.index("--config") + 1] = "/mnt/config/trap.yaml"
    trial.write("config/trap.yaml", CONFIG.format(batch=1) + "    eval_strategy: steps\n    eval_steps: 1\n    max_steps: 8\n")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        affected = "avx512_bf16" in file.read()
    lines = trial.run(*arguments, code=6 if affected else 0, program=TRAP)
    print(f"  without the fix: {last(lines, 'error')['message'] if affected else 'this processor is not affected'}")


def again(trial: Trial) -> None:
    lines = trial.run(*trial.training("lora"))
    assert last(lines, "done")["alreadyTrained"]
    assert not [line for line in lines if line["kaito"] == "progress"]


def two_processes(trial: Trial) -> None:
    trial.write("config/two.yaml", CONFIG.format(batch=1) + "    max_steps: 4\n")
    arguments = trial.training("two", "lora", "data-jsonl", "--fresh", "--processes", "2")
    arguments[arguments.index("--config") + 1] = "/mnt/config/two.yaml"
    lines = trial.run(*arguments)
    assert last(lines, "done")["steps"] == 4
    assert len([line for line in lines if line["kaito"] == "done"]) == 1
    check_adapter(trial, "two")


STEPS = {"convert": convert, "lora": lora, "resume": resume, "qlora": qlora, "qlora-resume": qlora_resume, "answers": answers, "trap": trap, "again": again,
         "processes": two_processes}


def main(rootfs: str, gguf: str, work: str, *names: str) -> None:
    if os.geteuid() != 0:
        raise SystemExit("real_training: needs root for chroot and mounts")
    trial = Trial(rootfs, gguf, work)
    for name in names or STEPS:
        print(f"{name}:", flush=True)
        STEPS[name](trial)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
