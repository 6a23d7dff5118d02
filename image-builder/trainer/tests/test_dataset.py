"""Finding, reading and checking data."""

import gzip
import json
import os
import tempfile
import unittest

from kaito_trainer.config import DatasetSettings
from kaito_trainer.dataset import Dataset, detected
from kaito_trainer.failure import Failure

PAIR = {"prompt": "What?", "completion": "That."}
TALK = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]}


class Data(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name: str, content) -> None:
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        with open(path, "wb") as file:
            file.write(data)

    def lines(self, name: str, *rows) -> None:
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def dataset(self, **settings) -> Dataset:
        return Dataset(self.folder, DatasetSettings(**settings))

    def refused(self, **settings) -> str:
        with self.assertRaises(Failure) as caught:
            self.dataset(**settings).check()
        self.assertIn(caught.exception.reason, ("DatasetInvalid", "ConfigInvalid"))
        return caught.exception.message

    def rows(self, **settings) -> list:
        data = self.dataset(**settings)
        data.check()
        return list(data.rows(evaluation=False))

    def test_prompt_and_completion_become_a_conversation(self):
        self.lines("a.jsonl", PAIR)
        self.assertEqual(
            self.rows(),
            [{"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "That."}]}],
        )

    def test_they_stay_text_when_no_chat_template_is_wanted(self):
        self.lines("a.jsonl", PAIR)
        self.assertEqual(self.rows(chat_template=False), [PAIR])

    def test_messages_are_kept_and_the_older_spelling_is_understood(self):
        self.lines("a.jsonl", TALK)
        self.assertEqual(self.rows(), [TALK])
        self.lines("a.jsonl", {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]})
        self.assertEqual(self.rows(), [TALK])

    def test_an_instruction_takes_its_input_along(self):
        self.write("a.csv", "instruction,input,output\nAdd,1 and 2,3\nSay hello,,Hello\n")
        prompts = [row["prompt"][0]["content"] for row in self.rows()]
        self.assertEqual(prompts, ["Add\n\n1 and 2", "Say hello"])

    def test_known_column_names_are_found(self):
        for columns, kind in (
            (["instruction", "context", "response", "category"], "pair"),
            (["context", "response"], "pair"),
            (["question", "answer"], "pair"),
            (["text"], "text"),
            (["messages", "text"], "messages"),
        ):
            self.assertEqual(detected(columns).kind, kind)
        self.assertIsNone(detected(["title", "body"]))

    def test_wrong_columns_are_refused_with_the_list_of_them(self):
        self.lines("a.jsonl", {"title": "x", "body": "y"})
        text = self.refused()
        self.assertIn("'title', 'body'", text)
        self.assertIn("prompt and completion", text)

    def test_a_configured_column_that_is_missing_is_refused_with_the_nearest(self):
        self.lines("a.jsonl", {"dialogue": [], "id": 1})
        self.assertIn("did you mean dialogue?", self.refused(messages_column="dialog"))

    def test_configured_columns_win_over_detected_ones(self):
        self.lines("a.jsonl", {**PAIR, "hint": "Look.", "reply": "There."})
        row = self.rows(context_column="hint", response_column="reply")[0]
        self.assertEqual(row["completion"][0]["content"], "There.")

    def test_columns_without_effect_are_noted(self):
        self.lines("a.jsonl", {**PAIR, "category": "x"})
        self.assertIn("columns without effect: category", self.dataset_notes())

    def dataset_notes(self) -> list:
        return self.dataset().check().notes

    def test_rows_with_empty_text_are_refused_by_file_and_line(self):
        self.lines("a.jsonl", PAIR, {"prompt": " ", "completion": "x"}, PAIR, {"prompt": "x", "completion": None})
        text = self.refused()
        self.assertIn("a.jsonl:2 (line): prompt is empty", text)
        self.assertIn("a.jsonl:4 (line): completion is missing", text)

    def test_many_bad_rows_are_counted_not_listed(self):
        self.lines("a.jsonl", *[{"prompt": "", "completion": "x"}] * 50)
        text = self.refused()
        self.assertIn("50 problems", text)
        self.assertIn("and 30 more", text)

    def test_a_conversation_must_have_an_answer_and_known_roles(self):
        self.lines("a.jsonl", {"messages": [{"role": "user", "content": "x"}]}, {"messages": [{"role": "boss", "content": "x"}]})
        text = self.refused()
        self.assertIn("no message of the assistant", text)
        self.assertIn("messages[0].role is 'boss'", text)

    def test_an_empty_file_is_refused(self):
        self.lines("a.jsonl", PAIR)
        self.write("b.jsonl", "")
        self.write("c.csv", "prompt,completion\n")
        text = self.refused()
        self.assertIn("b.jsonl: has no rows", text)
        self.assertIn("c.csv: has no rows", text)

    def test_an_empty_folder_and_a_missing_one_are_refused(self):
        self.assertIn("the folder is empty", self.refused())
        with self.assertRaises(Failure):
            Dataset(os.path.join(self.folder, "none"), DatasetSettings())

    def test_broken_json_is_refused_with_its_line(self):
        self.write("a.jsonl", json.dumps(PAIR) + "\n{oops\n")
        self.assertIn("a.jsonl:2: is not JSON", self.refused())

    def test_json_may_be_an_array_lines_or_an_object_around_rows(self):
        for content in (
            json.dumps([PAIR, PAIR], indent=1),
            json.dumps(PAIR) + "\n" + json.dumps(PAIR),
            json.dumps({"data": [PAIR, PAIR]}),
            json.dumps({"version": 1, "data": [PAIR, PAIR]}, indent=1),
        ):
            self.write("a.json", content)
            self.assertEqual(len(self.rows()), 2, content)

    def test_one_json_row_is_one_row(self):
        self.write("a.json", json.dumps(TALK))
        self.assertEqual(self.rows(), [TALK])

    def test_csv_knows_quotes_line_breaks_and_a_byte_order_mark(self):
        self.write("a.csv", '\ufeffprompt,completion\n"a, ""b""\nc",d\ne,f\n')
        self.assertEqual([row["prompt"][0]["content"] for row in self.rows()], ['a, "b"\nc', "e"])

    def test_a_csv_row_with_too_few_fields_is_refused_with_its_line(self):
        self.write("a.csv", 'prompt,completion\n"x\ny",z\nonly one\n')
        self.assertIn("a.csv:4: 1 fields, the header has 2", self.refused())

    def test_a_csv_cell_may_hold_messages_as_json(self):
        cell = json.dumps(TALK["messages"]).replace('"', '""')
        self.write("a.csv", f'messages\n"{cell}"\n')
        self.assertEqual(self.rows(), [TALK])

    def test_compressed_files_are_read(self):
        self.write("a.jsonl.gz", gzip.compress(json.dumps(PAIR).encode()))
        self.assertEqual(len(self.rows()), 1)

    def test_a_cut_compressed_file_is_refused(self):
        whole = gzip.compress("".join(json.dumps({**PAIR, "n": n}) + "\n" for n in range(500)).encode())
        self.write("a.jsonl.gz", whole[: len(whole) // 2])
        self.assertIn("a.jsonl.gz", self.refused())

    def test_several_files_are_read_in_the_order_of_their_names(self):
        self.lines("b.jsonl", {**PAIR, "prompt": "second"})
        self.write("a.csv", "prompt,completion\nfirst,x\n")
        self.assertEqual([row["prompt"][0]["content"] for row in self.rows()], ["first", "second"])

    def test_files_of_different_shapes_are_refused(self):
        self.lines("a.jsonl", PAIR)
        self.lines("b.jsonl", TALK)
        self.assertIn("do not fit together", self.refused())

    def test_files_named_as_a_test_split_are_held_out(self):
        self.lines("train-00000.jsonl", PAIR, PAIR)
        self.lines("validation-00000.jsonl", PAIR)
        summary = self.dataset().check()
        self.assertEqual((summary.rows, summary.evaluation_rows), (2, 1))

    def test_files_beside_the_data_are_left_alone(self):
        self.lines("a.jsonl", PAIR)
        self.write("README.md", "# data")
        self.write("dataset_infos.json", "{}")
        self.write(".hidden.jsonl", "{")
        self.assertEqual(len(self.rows()), 1)

    def test_a_pipe_in_the_folder_is_not_read(self):
        self.lines("a.jsonl", PAIR)
        os.mkfifo(os.path.join(self.folder, "pipe"))
        self.assertEqual(len(self.rows()), 1)

    def test_a_name_without_extension_is_told_by_content_or_by_configuration(self):
        self.lines("download", PAIR)
        self.assertEqual(len(self.rows()), 1)
        os.remove(os.path.join(self.folder, "download"))
        self.write("table", "prompt,completion\nx,y\n")
        self.assertIn("found table", self.refused())
        self.assertEqual(len(self.rows(extension="csv")), 1)

    def test_the_data_path_of_the_configuration_stays_inside_the_folder(self):
        self.lines("part/a.jsonl", PAIR)
        self.lines("b.jsonl", PAIR, PAIR)
        self.assertEqual(len(self.rows(path="part")), 1)
        self.assertIn("must be inside", self.refused(path="../.."))

    def test_a_split_that_leaves_nothing_is_refused(self):
        self.lines("a.jsonl", PAIR, PAIR)
        self.assertIn("too few", self.refused(train_fraction=0.9))

    def test_the_digest_changes_with_a_row_and_with_its_place(self):
        other = {**PAIR, "prompt": "Who?"}
        digests = set()
        for rows in ((PAIR, other), (other, PAIR), (PAIR, PAIR)):
            self.lines("a.jsonl", *rows)
            digests.add(self.dataset().check().digest)
        self.assertEqual(len(digests), 3)

    def test_a_parquet_file_that_is_none_is_refused(self):
        self.write("a.parquet", "no parquet at all")
        self.assertIn("a.parquet", self.refused())


if __name__ == "__main__":
    unittest.main()
