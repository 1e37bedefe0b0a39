"""The server as a process, before a tiny checkpoint whose stories do not end by themselves."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.runs import ROOT
from tinystories.checkpoint.loading import load_checkpoint


class Server:
    """run_server.py, ready for requests; one that was stopped starts again at the same address."""

    def __init__(self, checkpoint: Path | str, *options):
        self.words, self.port = [checkpoint, "--device", "cpu", "--requests_per_minute", "100000", *options], "0"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_server.py"), *map(str, self.words), "--port", self.port],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.log = ""
        for line in self.process.stderr:  # ends with the process, if it cannot start
            self.log += line
            if address := re.search(r"http://\S+:(\d+)", line):
                self.url, self.port = address[0], address[1]
                break
        else:
            raise AssertionError(self.log)
        self.client = httpx.Client(base_url=self.url, timeout=120)
        while self.client.get("/health").status_code == 503:
            assert self.process.poll() is None, self.process.stderr.read()

    def generate(self, **body) -> dict:
        """A story in one JSON object."""
        answer = self.client.post("/generate", json={"stream": False} | body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, **body) -> list[tuple[str, str]]:
        """(name, data) of each server-sent event, to the end of the stream."""
        with self.client.stream("POST", "/generate", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return events_of(answer)

    def load(self) -> dict[str, int]:
        return self.client.get("/api/info").json()["load"]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit status and everything it logged."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest = self.process.communicate(timeout=120)[1] if not self.process.stderr.closed else ""
        self.client.close()
        return self.process.returncode, self.log + rest

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop(signal.SIGKILL)


def events_of(answer: httpx.Response) -> list[tuple[str, str]]:
    found, name = [], "message"
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, line.removeprefix("data: ")))
            name = "message"
    return found


def untrained(counting_run: Path, folder: Path, context: int = 512, seed: int = 0) -> Path:
    """A fresh network of the counting run's sizes in a complete checkpoint: it says anything. The end has a logit of 0,
    which is never among the 50 highest: with top_k 50 a story is as long as asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(counting_run / name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": context}), encoding="utf-8")
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.get_output_embeddings().weight.data[model.config.eos_token_id] = 0
    model.save_pretrained(folder)
    return folder


def written_alone(checkpoint: Path, prompt: str, seed: int, max_tokens: int, **settings) -> str:
    """What transformers' own `generate` writes for this seed, in the numbers the server calculates with."""
    model, tokenizer = load_checkpoint(str(checkpoint))
    inputs = tokenizer(prompt, return_tensors="pt")
    torch.manual_seed(seed)
    output = model.double().generate(**inputs, do_sample=True, max_new_tokens=max_tokens, **settings)[0]
    story, beginning = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (output, inputs["input_ids"][0]))
    return story[len(beginning) :].rstrip("\ufffd")
