"""What a request asks of the engine, checked as vLLM 0.32 checks it.

Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from deployments.sandbox.vllm_bodies import bad, chat_text, tokens_of
    from deployments.sandbox.vllm_engine import Job
else:
    from vllm_bodies import bad, chat_text, tokens_of
    from vllm_engine import Job


def jobs_of(body: dict[str, Any], chat: bool, longest: int) -> list[Job]:
    """The sequences a request asks for; 400 when one exceeds the context."""
    if chat:
        prompts = [tokens_of(chat_text(body))]
    else:
        given = body.get("prompt", "")
        several = isinstance(given, list) and not all(isinstance(v, int) for v in given)
        prompts = [tokens_of(p) for p in (given if several else [given])]
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    if asked is None and not chat:
        asked = 16
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise bad(f"max_tokens must be at least 1, got {asked}.", "max_tokens", asked)
    if asked is not None and asked > longest:
        raise bad(
            f"max_tokens={asked} cannot be greater than max_model_len={longest}. Please "
            "request fewer output tokens.",
            "max_tokens",
            asked,
        )
    jobs = []
    for prompt in prompts:
        count = len(prompt)
        if count >= longest:
            raise bad(
                f"This model's maximum context length is {longest} tokens. However, your "
                f"prompt contains at least {longest + 1} input tokens, which exceeds this "
                "limit even without any output tokens. Please reduce the length of the input "
                "prompt.",
                "input_tokens",
                longest + 1,
            )
        if asked is not None and count + asked > longest:
            raise bad(
                f"This model's maximum context length is {longest} tokens. However, you "
                f"requested {asked} output tokens and your prompt contains at least "
                f"{longest - asked + 1} input tokens, for a total of at least {longest + 1} "
                "tokens. Please reduce the length of the input prompt or the number of "
                "requested output tokens.",
                "input_tokens",
                longest - asked + 1,
            )
        jobs += [
            Job(count, asked or longest - count, bool(body.get("ignore_eos")))
            for _ in range(int(body.get("n") or 1))
        ]
    return jobs
