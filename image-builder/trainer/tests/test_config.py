"""The translation of KAITO's configuration."""

import os
import tempfile
import unittest

from kaito_trainer import config
from kaito_trainer.failure import Failure

try:
    import yaml  # noqa: F401

    HAS_YAML = True
except ModuleNotFoundError:
    HAS_YAML = False

KAITO_DEFAULT = """\
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""


def translated(sections: dict, method: str = "lora") -> config.Settings:
    return config.translate(sections, {}, method, "test")


class Translation(unittest.TestCase):
    def refused(self, sections: dict, method: str = "lora") -> str:
        with self.assertRaises(Failure) as caught:
            translated(sections, method)
        self.assertEqual(caught.exception.reason, "ConfigInvalid")
        return caught.exception.message

    def test_without_a_configuration_the_defaults_hold(self):
        settings = config.load(None, "lora")
        self.assertEqual(settings.lora, {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0})
        self.assertEqual(settings.quantization, {})
        self.assertEqual(settings.dataset.train_fraction, 1)

    def test_qlora_without_a_configuration_quantises_to_four_bits(self):
        settings = config.load(None, "qlora")
        self.assertTrue(settings.quantization["load_in_4bit"])
        self.assertEqual(settings.quantization["bnb_4bit_quant_type"], "nf4")

    def test_qlora_with_four_bits_turned_off_is_refused(self):
        text = self.refused({"QuantizationConfig": {"load_in_4bit": False}}, "qlora")
        self.assertIn("training_config.QuantizationConfig", text)

    def test_lora_keeps_no_setting_of_a_quantisation_that_is_off(self):
        settings = translated({"QuantizationConfig": {"load_in_4bit": False, "bnb_4bit_quant_type": "nf4"}})
        self.assertEqual(settings.quantization, {})

    def test_an_unknown_key_is_refused_with_its_path_and_the_nearest_known_one(self):
        text = self.refused({"TrainingArguments": {"learning_rat": 1e-3}})
        self.assertIn("training_config.TrainingArguments.learning_rat", text)
        self.assertIn("did you mean learning_rate?", text)

    def test_a_key_in_the_wrong_section_is_refused_with_the_right_one(self):
        self.assertIn("belongs to TrainingArguments", self.refused({"LoraConfig": {"learning_rate": 1}}))

    def test_an_unknown_section_is_refused_with_the_nearest_known_one(self):
        self.assertIn("did you mean LoraConfig?", self.refused({"LoRAConfg": {}}))

    def test_all_problems_are_told_at_once(self):
        text = self.refused({"LoraConfig": {"rank": 8, "lora_dropout": 2}, "ModelConfig": {"torch_dtype": "int3"}})
        for part in ("3 problems", "LoraConfig.rank", "lora_dropout", "torch_dtype"):
            self.assertIn(part, text)

    def test_old_names_are_renamed_with_a_note(self):
        settings = translated({"TrainingArguments": {"evaluation_strategy": "epoch", "max_seq_length": 77}})
        self.assertEqual(settings.arguments["eval_strategy"], "epoch")
        self.assertEqual(settings.arguments["max_length"], 77)
        self.assertEqual(len(settings.notes), 2)

    def test_an_old_and_a_new_name_together_are_refused(self):
        text = self.refused({"TrainingArguments": {"max_seq_length": 7, "max_length": 8}})
        self.assertIn("old and its new name", text)

    def test_dropped_keys_leave_a_note_that_says_why(self):
        settings = translated({"TrainingArguments": {"output_dir": "/mnt/results", "push_to_hub": True}})
        self.assertNotIn("output_dir", settings.arguments)
        self.assertTrue(any("push_to_hub" in note and "hub" in note for note in settings.notes))

    def test_a_dropped_key_that_asks_for_nothing_leaves_no_note(self):
        self.assertEqual(translated({"TrainingArguments": {"push_to_hub": False}}).notes, [])

    def test_a_part_that_is_not_in_the_image_is_refused_when_it_is_asked_for(self):
        self.assertIn("DeepSpeed", self.refused({"TrainingArguments": {"deepspeed": "zero3.json"}}))
        self.assertNotIn("deepspeed", translated({"TrainingArguments": {"deepspeed": None}}).arguments)

    def test_a_wrong_type_is_refused_with_the_wanted_one(self):
        text = self.refused({"TrainingArguments": {"num_train_epochs": "three"}})
        self.assertIn("a number wanted", text)
        self.assertIn("true or false wanted", self.refused({"DatasetConfig": {"shuffle_dataset": "yes please"}}))

    def test_a_number_that_yaml_takes_for_text_is_a_number(self):
        self.assertEqual(translated({"TrainingArguments": {"learning_rate": "2e-4"}}).arguments["learning_rate"], 2e-4)

    def test_an_unquoted_no_is_a_strategy(self):
        self.assertEqual(translated({"TrainingArguments": {"save_strategy": False}}).arguments["save_strategy"], "no")

    def test_numbers_out_of_range_are_refused(self):
        for section, key, value in (
            ("LoraConfig", "r", 0),
            ("TrainingArguments", "per_device_train_batch_size", 0),
            ("DatasetConfig", "train_test_split", 1.5),
        ):
            with self.subTest(key=key):
                self.assertIn(f"{section}.{key}", self.refused({section: {key: value}}))

    def test_target_modules_may_be_a_list_a_word_or_words_with_commas(self):
        for given, wanted in (
            (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
            ("all-linear", "all-linear"),
            ("q_proj, v_proj", ["q_proj", "v_proj"]),
        ):
            self.assertEqual(translated({"LoraConfig": {"target_modules": given}}).lora["target_modules"], wanted)

    def test_columns_that_exclude_each_other_are_refused(self):
        self.refused({"DatasetConfig": {"messages_column": "m", "response_column": "r"}})
        self.refused({"DatasetConfig": {"context_column": "c"}})

    def test_the_identity_changes_with_a_setting_and_not_with_a_note(self):
        one, other = translated({}), translated({"LoraConfig": {"r": 4}})
        noted = translated({"DataCollator": {"mlm": True}})
        self.assertNotEqual(one.identity(), other.identity())
        self.assertEqual(one.identity(), noted.identity())

    def test_every_renamed_key_is_one_the_libraries_know(self):
        known = config.known_fields()["TrainingArguments"]
        for new in config.ARGUMENTS_RENAMED.values():
            self.assertIn(new, known)

    def test_an_unknown_method_is_a_usage_error(self):
        with self.assertRaises(Failure) as caught:
            config.load(None, "full")
        self.assertEqual(caught.exception.exit_code, 2)


@unittest.skipUnless(HAS_YAML, "needs pyyaml")
class Files(unittest.TestCase):
    def loaded(self, text: str, method: str = "lora") -> config.Settings:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "training_config.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return config.load(path, method)

    def refused(self, text: str) -> str:
        with self.assertRaises(Failure) as caught:
            self.loaded(text)
        return caught.exception.message

    def test_kaitos_default_configuration_is_taken_whole(self):
        settings = self.loaded(KAITO_DEFAULT, "qlora")
        self.assertEqual(settings.dtype, "bfloat16")
        self.assertEqual(settings.arguments["per_device_train_batch_size"], 1)
        self.assertEqual(settings.arguments["save_strategy"], "no")
        self.assertTrue(settings.quantization["bnb_4bit_use_double_quant"])

    def test_an_error_names_the_line(self):
        self.assertIn("line 3: training_config.LoraConfig.rank", self.refused("training_config:\n  LoraConfig:\n    rank: 8\n"))

    def test_a_key_that_is_there_twice_is_refused_with_both_lines(self):
        text = self.refused("training_config:\n  LoraConfig:\n    r: 8\n    r: 16\n")
        self.assertIn("line 4", text)
        self.assertIn("line 3", text)

    def test_broken_yaml_an_empty_file_and_a_missing_root_are_refused(self):
        self.assertIn("is not YAML", self.refused("training_config: [1"))
        self.assertIn("is empty", self.refused(""))
        self.assertIn("training_config", self.refused("LoraConfig:\n  r: 8\n"))

    def test_a_missing_file_is_refused(self):
        with self.assertRaises(Failure) as caught:
            config.load("/nowhere/training_config.yaml", "lora")
        self.assertIn("cannot be read", caught.exception.message)


if __name__ == "__main__":
    unittest.main()
