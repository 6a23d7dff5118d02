"""The small parts around a run: checkpoints, the watch on learning, limits, model files, reports, the command line."""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

from kaito_trainer import __main__ as command
from kaito_trainer import checkpoints, finished, learning, limits, model_files, processes
from kaito_trainer.failure import Failure
from kaito_trainer.report import Reporter, plain


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def write(self, name: str, content) -> str:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path


class Checkpoints(InFolder):
    def checkpoint(self, step: int, fingerprint: str = "this run") -> str:
        self.write(f"checkpoint-{step}/weights", "w" * step)
        folder = self.path(f"checkpoint-{step}")
        checkpoints.seal(folder, fingerprint)
        return folder

    def test_the_newest_by_number_is_taken(self):
        self.checkpoint(5)
        newest = self.checkpoint(10)
        self.assertEqual(checkpoints.newest(self.folder, "this run"), (newest, {}))

    def test_one_without_a_seal_is_passed_over_and_removed(self):
        whole = self.checkpoint(5)
        self.write("checkpoint-10/weights", "half")
        found, faults = checkpoints.newest(self.folder, "this run")
        self.assertEqual(found, whole)
        self.assertTrue(os.path.exists(self.path("checkpoint-10")))
        self.assertIn("checkpoint-10 was removed", checkpoints.remove(faults)[0])
        self.assertFalse(os.path.exists(self.path("checkpoint-10")))

    def test_one_with_a_file_that_was_cut_or_lost_is_not_whole(self):
        for step, damage in ((5, lambda path: os.truncate(path, 1)), (6, os.remove)):
            damage(os.path.join(self.checkpoint(step), "weights"))
        found, faults = checkpoints.newest(self.folder, "this run")
        self.assertIsNone(found)
        self.assertEqual(len(faults), 2)

    def test_one_of_another_run_is_not_taken(self):
        folder = self.checkpoint(5, "another run")
        found, faults = checkpoints.newest(self.folder, "this run")
        self.assertIsNone(found)
        self.assertIn("other data", faults[folder])

    def test_other_folders_and_a_missing_folder_are_no_checkpoints(self):
        self.write("notes/file", "x")
        self.assertEqual(checkpoints.newest(self.folder, "this run"), (None, {}))
        self.assertEqual(checkpoints.newest(self.path("none"), "this run"), (None, {}))


class Finished(InFolder):
    def test_a_training_done_before_is_known_by_its_fingerprint(self):
        path = self.write("adapter/adapter_model.safetensors", "weights")
        finished.write(self.folder, "this run", {"sha256": finished.sha256(path), "steps": 5})
        self.assertEqual(finished.result(self.folder, "this run")["steps"], 5)
        self.assertIsNone(finished.result(self.folder, "another run"))

    def test_one_whose_adapter_was_lost_or_changed_is_done_anew(self):
        path = self.write("adapter/adapter_model.safetensors", "weights")
        finished.write(self.folder, "this run", {"sha256": finished.sha256(path)})
        self.write("adapter/adapter_model.safetensors", "changed")
        self.assertIsNone(finished.result(self.folder, "this run"))
        os.remove(path)
        self.assertIsNone(finished.result(self.folder, "this run"))

    def test_a_marker_that_is_no_marker_is_passed_over(self):
        for content in ("", "[]", "{}", "training completed"):
            self.write("fine_tuning_completed.txt", content)
            self.assertIsNone(finished.result(self.folder, "this run"))


class Learning(unittest.TestCase):
    def test_three_logged_steps_without_gradient_end_the_run(self):
        watch = learning.LearningWatch()
        watch.logged(1, 2.0, 0.0)
        watch.logged(2, 2.0, 0.0)
        with self.assertRaises(Failure) as caught:
            watch.logged(3, 2.0, 0.0)
        self.assertEqual((caught.exception.reason, caught.exception.exit_code), ("NotLearning", 6))
        self.assertIn("exactly 0", caught.exception.message)

    def test_a_step_with_a_gradient_between_them_starts_the_count_anew(self):
        watch = learning.LearningWatch()
        for norm in (0.0, 0.0, 0.1, 0.0, 0.0):
            watch.logged(1, 2.0, norm)
        self.assertEqual(watch.dead_steps, 2)

    def test_a_loss_that_is_not_a_number_ends_the_run(self):
        watch = learning.LearningWatch(patience=1)
        with self.assertRaises(Failure) as caught:
            watch.logged(1, float("nan"), 1.0)
        self.assertIn("learning_rate", caught.exception.message)

    def test_an_overflowing_gradient_is_normal_only_with_float16(self):
        learning.LearningWatch(1, overflow_is_normal=True).logged(1, 2.0, float("inf"))
        with self.assertRaises(Failure):
            learning.LearningWatch(1).logged(1, 2.0, float("inf"))

    def test_four_bit_layers_are_kept_from_packing_themselves_for_inference(self):
        class Layer:
            def __init__(self, flag=None):
                if flag is not None:
                    self.support_avx512bf16_for_cpu = flag

        class Model:
            layers = [Layer(True), Layer(False), Layer(), Layer(True)]

            def modules(self):
                return iter(self.layers)

        self.assertEqual(learning.keep_gradients(Model()), 2)
        self.assertFalse(any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in Model.layers))
        self.assertFalse(hasattr(Model.layers[2], "support_avx512bf16_for_cpu"))

    def test_steps_are_counted_as_the_library_does(self):
        self.assertEqual(learning.steps_of_run(180, 4, 1, 1, 1, -1), 45)
        self.assertEqual(learning.steps_of_run(200, 4, 4, 1, 3, -1), 39)
        self.assertEqual(learning.steps_of_run(200, 4, 1, 2, 0.5, -1), 13)
        self.assertEqual(learning.steps_of_run(200, 4, 1, 1, 3, 7), 7)

    def test_a_run_of_any_length_logs_often_enough_to_be_watched(self):
        for steps in (1, 2, 3, 45, 10_000):
            for wanted in (None, 1, 10, 500, 0.5):
                interval = learning.logging_steps(steps, wanted)
                self.assertGreaterEqual(interval, 1)
                self.assertGreaterEqual(steps // interval, min(steps, learning.PATIENCE))


class Limits(InFolder):
    def test_a_quota_of_cgroup_version_2_is_rounded_up(self):
        self.write("cpu.max", "150000 100000\n")
        self.assertEqual(limits.cpu_quota(self.folder), 1.5)
        self.assertEqual(limits.processors(self.folder), min(2, len(os.sched_getaffinity(0))))

    def test_a_quota_of_cgroup_version_1_is_read(self):
        self.write("cpu/cpu.cfs_quota_us", "50000")
        self.write("cpu/cpu.cfs_period_us", "100000")
        self.assertEqual(limits.cpu_quota(self.folder), 0.5)
        self.assertEqual(limits.processors(self.folder), 1)

    def test_without_a_quota_all_allowed_processors_count(self):
        self.write("cpu.max", "max 100000\n")
        self.assertEqual(limits.processors(self.folder), len(os.sched_getaffinity(0)))
        self.assertIsNone(limits.cpu_quota(self.path("none")))

    def test_the_environment_gives_each_process_its_share_and_keeps_what_is_set(self):
        self.write("cpu.max", "100000 100000")
        self.assertEqual(limits.environment(1, self.folder).get("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")), "1")
        before = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(before)))
        os.environ["OMP_NUM_THREADS"] = "7"
        self.assertNotIn("OMP_NUM_THREADS", limits.environment(1, self.folder))
        self.assertEqual(limits.environment(1, self.folder).get("OMP_WAIT_POLICY", "PASSIVE"), "PASSIVE")


def safetensors(payload: int = 4) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * payload


class ModelFiles(InFolder):
    def model(self, below: str = "") -> None:
        prefix = below + "/" if below else ""
        self.write(prefix + "config.json", '{"model_type": "llama"}')
        self.write(prefix + "tokenizer.json", "{}")
        self.write(prefix + "model.safetensors", safetensors())

    def refused(self) -> str:
        with self.assertRaises(Failure) as caught:
            model_files.find(self.folder)
        self.assertEqual(caught.exception.reason, "ModelInvalid")
        return caught.exception.message

    def test_a_whole_folder_is_found_also_further_down(self):
        self.model("models--x/snapshots/abc")
        self.assertEqual(model_files.find(self.folder).kind, "llama")

    def test_two_models_are_refused_with_their_places(self):
        self.model("one")
        self.model("two")
        self.assertIn("holds several models", self.refused())

    def test_a_weights_file_that_was_cut_is_refused(self):
        self.model()
        self.write("model.safetensors", safetensors(payload=3))
        self.assertIn("not downloaded completely", self.refused())

    def test_a_missing_shard_and_a_missing_tokenizer_are_told_together(self):
        self.model()
        os.remove(self.path("tokenizer.json"))
        self.write("model.safetensors.index.json", json.dumps({"weight_map": {"a": "m-1.safetensors"}}))
        text = self.refused()
        self.assertIn("m-1.safetensors", text)
        self.assertIn("has no tokenizer", text)

    def test_the_only_gguf_file_of_a_folder_is_taken(self):
        self.write("m.gguf", b"GGUF" + struct.pack("<I", 3))
        self.assertEqual(model_files.find(self.folder).gguf, "m.gguf")
        self.write("m.gguf", b"NOPE" + struct.pack("<I", 3))
        self.assertIn("is no GGUF file", self.refused())

    def test_an_empty_folder_is_refused_with_what_is_there(self):
        self.write("README.md", "x")
        self.assertIn("found README.md", self.refused())

    def test_the_identity_follows_the_weights(self):
        self.model()
        before = model_files.find(self.folder).identity()
        self.assertEqual(before, model_files.find(self.folder).identity())
        self.write("model.safetensors", safetensors()[:-1] + b"\1")
        self.assertNotEqual(before, model_files.find(self.folder).identity())


class Reports(InFolder):
    def test_every_line_is_json_also_with_numbers_json_has_no_word_for(self):
        stream = io.StringIO()
        Reporter(stream).line("progress", loss=float("nan"), text="é\n")
        self.assertEqual(json.loads(stream.getvalue()), {"kaito": "progress", "loss": None, "text": "é\n"})
        self.assertEqual(plain(0.123456789), 0.1234568)

    def test_a_failure_reaches_the_kubelets_file_shortened_to_what_it_keeps(self):
        path = self.write("termination-log", "")
        reporter = Reporter(io.StringIO(), termination_log=path)
        with contextlib.redirect_stderr(io.StringIO()):
            reporter.failure(Failure("DatasetInvalid", "x" * 10_000))
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertTrue(text.startswith("DatasetInvalid: xxx"))
        self.assertEqual(len(text), 4096)

    def test_a_process_that_was_stopped_leaves_the_cause_another_one_wrote(self):
        path = self.write("termination-log", "")
        reporter = Reporter(io.StringIO(), termination_log=path)
        with contextlib.redirect_stderr(io.StringIO()):
            reporter.failure(Failure("OutOfMemory", "the first"))
            reporter.failure(Failure("Stopped", "the second"))
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "OutOfMemory: the first")

    def test_outside_a_pod_no_such_file_is_made(self):
        path = self.path("none")
        Reporter(io.StringIO(), termination_log=path).done(step=1)
        self.assertFalse(os.path.exists(path))

    def test_a_process_that_is_not_the_first_stays_silent(self):
        stream = io.StringIO()
        Reporter(stream, silent=True).line("progress", step=1)
        self.assertEqual(stream.getvalue(), "")


class CommandLine(InFolder):
    def run_validate(self, *more: str) -> tuple[int, list[dict]]:
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(io.StringIO()):
            code = command.main(["validate", "--model", self.path("model"), "--data", self.path("data"), *more])
        return code, [json.loads(line) for line in stream.getvalue().splitlines()]

    def test_good_input_is_valid_and_says_what_was_seen(self):
        self.write("model/m.gguf", b"GGUF" + struct.pack("<I", 3))
        self.write("data/a.jsonl", '{"prompt": "a", "completion": "b"}\n')
        code, lines = self.run_validate("--method", "lora")
        self.assertEqual(code, 0)
        self.assertEqual((lines[-1]["kaito"], lines[-1]["rows"], lines[-1]["shape"]), ("valid", 1, "pair"))

    def test_a_wrong_model_and_wrong_data_are_both_told(self):
        self.write("data/a.jsonl", '{"title": "a"}\n')
        code, lines = self.run_validate("--method", "lora")
        self.assertEqual([line["reason"] for line in lines], ["ModelInvalid", "DatasetInvalid"])
        self.assertEqual(code, 4)

    def test_a_wrong_option_is_a_usage_error_in_json_too(self):
        code, lines = self.run_validate("--method", "full")
        self.assertEqual((code, lines[0]["reason"]), (2, "UsageError"))

    def test_validation_loads_no_heavy_library(self):
        program = (
            "import sys, kaito_trainer.__main__ as m; m.main(['validate', '--model', '/none', '--data', '/none', '--method', 'lora'])\n"
            "print([name for name in ('torch', 'transformers', 'datasets', 'numpy', 'pyarrow') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.splitlines()[-1], "[]")

    def test_the_public_name_is_never_a_path(self):
        gguf = model_files.ModelFiles("/mnt/weights", "Some-Model.Q4.gguf")
        self.assertEqual(command.public_name(None, gguf), "Some-Model.Q4")
        for written in ("/mnt/weights", "./here", "a/b/c"):
            files = model_files.ModelFiles("/mnt/weights", None, {"_name_or_path": written})
            self.assertEqual(command.public_name(None, files), "weights")
        files = model_files.ModelFiles("/mnt/weights", None, {"_name_or_path": "owner/model"})
        self.assertEqual(command.public_name(None, files), "owner/model")
        self.assertEqual(command.public_name("preset", files), "preset")

    def test_memory_errors_and_full_disks_get_reasons_of_their_own(self):
        self.assertEqual(command.as_failure(MemoryError()).reason, "OutOfMemory")
        self.assertEqual(command.as_failure(OSError(28, "No space left on device", "/out/x")).reason, "OutputNotWritable")
        self.assertEqual(command.as_failure(RuntimeError("odd")).reason, "TrainingFailed")


class Processes(unittest.TestCase):
    def children(self, *programs: str) -> list[subprocess.Popen]:
        return [subprocess.Popen([sys.executable, "-c", program]) for program in programs]

    def test_when_one_fails_the_others_are_ended_and_its_code_is_returned(self):
        waiting = "import time; time.sleep(600)"
        self.assertEqual(processes.first_failure(self.children("raise SystemExit(6)", waiting)), 6)

    def test_when_all_end_well_so_does_the_whole(self):
        self.assertEqual(processes.first_failure(self.children("", "")), 0)

    def test_as_many_as_asked_are_wanted(self):
        self.assertEqual(processes.wanted(3), 3)


if __name__ == "__main__":
    unittest.main()
