"""Drives kaito-runtime and llama.cpp in turns and prints a table. Started by tests/bench/runtime."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys

QUESTIONS = [
    "Name three colours.",
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List the steps to make a cup of tea.",
]


# Logits. Below this lead, rounding of activations may decide; above it, a difference is a fault of one of the two.
NEAR_TIE = 0.5


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama", help=argparse.SUPPRESS)
    return parser.parse_args()


def peak_memory():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def llama(args):
    """Runs in a process of its own: answers the prompts given as JSON, and measures."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.n_ctx = 4096
    params.n_parallel = 1
    params.verbosity = 0
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    server = xllamacpp.Server(params)

    def complete(prompt, generate, ignore_eos):
        return server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": generate,
                "temperature": 0,
                "ignore_eos": ignore_eos,
                "cache_prompt": False,
                "stream": False,
                "n_probs": 2,
                "timings_per_token": True,
            }
        )

    vocabulary = 49152
    prompt = [i * 97 % vocabulary for i in range(args.prompt_tokens)]
    complete(prompt[:8], 1, True)

    def cpu():
        return resource.getrusage(resource.RUSAGE_SELF).ru_utime

    # What reading costs is what is left when the same is done with one token of answer instead of many.
    began = cpu()
    complete(prompt, 1, True)
    read = cpu()
    timings = complete(prompt, args.generate + 1, True)["timings"]
    reading = read - began
    generating = cpu() - read - reading
    answers = []
    for prompt in json.loads(args.llama):
        choice = complete(prompt, args.generate, False)["choices"][0]
        content = choice["logprobs"]["content"]
        answers.append({"tokens": [token["id"] for token in content], "leads": [lead(token) for token in content]})
    print(
        json.dumps(
            {
                "prompt_tokens_per_second": timings["prompt_per_second"],
                "generated_tokens_per_second": timings["predicted_per_second"],
                "first_token_seconds": timings["prompt_ms"] / 1000,
                "prompt_tokens_per_cpu_second": args.prompt_tokens / reading,
                "generated_tokens_per_cpu_second": args.generate / generating,
                "peak_memory_bytes": peak_memory(),
                "answers": answers,
            }
        )
    )


def lead(token):
    """How far the likeliest token was ahead of the next: differences of log-probabilities are differences of logits."""
    first, second = sorted((top["logprob"] for top in token["top_logprobs"]), reverse=True)[:2]
    return first - second


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(args):
    command = [args.binary, "bench", "--model", args.model, "--threads", str(args.threads), "--rounds", "1"]
    command += ["--prompt-tokens", str(args.prompt_tokens), "--generate", str(args.generate)]
    for question in QUESTIONS:
        command += ["--ask", question]
    return run(command)


def theirs(args, prompts):
    command = [sys.executable, __file__, "--binary", args.binary, "--model", args.model]
    command += ["--threads", str(args.threads), "--prompt-tokens", str(args.prompt_tokens)]
    command += ["--generate", str(args.generate), "--llama", json.dumps(prompts)]
    return run(command)


def compare(question, mine, other):
    """Tells where two greedy answers part, and by how much each side preferred its choice there; whether that is fine.

    Both round activations to eight bits, each in its own blocks, so logits differ a little; where two tokens are nearly
    equally likely, that decides. After it the answers are about different texts, and nothing is compared.
    """
    for at, (a, b) in enumerate(zip(mine["tokens"], other["tokens"])):
        if a != b:
            here, there = mine["leads"][at], other["leads"][at]
            tie = max(here, there) < NEAR_TIE
            verdict = "a near-tie" if tie else f"NO near-tie: {NEAR_TIE} is the limit"
            told = f"{a} here, ahead by {here:.4f} logits; {b} there, ahead by {there:.4f}: {verdict}"
            return f"{question}: equal for {at} tokens; then {told}", tie
    return f"{question}: equal for all {min(len(mine['tokens']), len(other['tokens']))} tokens", True


def main():
    args = options()
    if args.llama:
        return llama(args)
    rounds = []
    for _ in range(args.rounds):
        mine = ours(args)
        other = theirs(args, [answer["prompt"] for answer in mine["answers"]])
        rounds.append((mine, other))
    rows = [
        ("prompt, tokens/s", "prompt_tokens_per_second", 1),
        ("generation, tokens/s", "generated_tokens_per_second", 1),
        ("first token, s", "first_token_seconds", 1),
        ("prompt, tokens/CPU s", "prompt_tokens_per_cpu_second", 1),
        ("generation, same", "generated_tokens_per_cpu_second", 1),
        ("peak memory, MiB", "peak_memory_bytes", 1 << 20),
    ]
    instructions = rounds[0][0]["instructions"]
    print(f"{args.threads} threads, {instructions}, prompt of {args.prompt_tokens}, answer of {args.generate}, median of {args.rounds}")
    print(f"{'':24}{'kaito-runtime':>15}{'llama.cpp':>12}{'ratio':>8}")
    for name, key, unit in rows:
        a = statistics.median(mine[key] for mine, _ in rounds) / unit
        b = statistics.median(other[key] for _, other in rounds) / unit
        print(f"{name:24}{a:15.2f}{b:12.2f}{a / b:8.2f}")
    mine, other = rounds[-1]
    compared = [compare(*each) for each in zip(QUESTIONS, mine["answers"], other["answers"])]
    for told, _ in compared:
        print(told)
    if not all(fine for _, fine in compared):
        sys.exit(1)


if __name__ == "__main__":
    main()
