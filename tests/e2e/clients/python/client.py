"""Runs jobs with the official Python SDK, or with LangChain's completion model on top of it.

Standard input: {"base_url", "api_key", "jobs": [{"name", "library", "model", "stream", …}]}.
Standard output: one JSON object, name -> what the library gave its user.
"""

import functools
import json
import sys

import openai


@functools.cache
def client_of(base_url, api_key, retries):
    """A client is made once for all jobs of its kind: each reads the system's certificates, which takes its time."""
    # "default" is what every user has; all other jobs want to see the first answer.
    more = {} if retries == "default" else {"max_retries": 0}
    return openai.OpenAI(base_url=base_url, api_key=api_key, **more)


def run_openai(settings, job):
    client = client_of(settings["base_url"], job.get("api_key", settings["api_key"]), job.get("retries"))
    params = {"model": job["model"], "prompt": "Write a haiku about dawn", **job.get("params", {})}
    if not job["stream"]:
        resp = client.completions.create(**params)
        return {
            "text": resp.choices[0].text,
            "finish_reason": resp.choices[0].finish_reason,
            "usage": plain_usage(resp.usage),
            "model": resp.model,
        }

    result = {"text": "", "delta_text": "", "finish_reason": None, "usage": None, "chunks": 0}
    # A failure amid the stream keeps what came before it: a user has already seen that.
    try:
        for event in client.completions.create(**params, stream=True):
            result["chunks"] += 1
            result["model"] = event.model
            if event.usage:
                result["usage"] = plain_usage(event.usage)
            if not event.choices:
                continue
            # As the API's documentation reads a chunk: prefer delta.text if present, else fall back to text.
            delta_text = getattr(getattr(event.choices[0], "delta", None), "text", None)
            result["text"] += delta_text or getattr(event.choices[0], "text", "")
            # What a user finds who knows that an unknown field is a plain dict.
            result["delta_text"] += event.choices[0].delta["text"]
            result["finish_reason"] = event.choices[0].finish_reason or result["finish_reason"]
    except openai.APIError as error:
        result["error"] = plain_error(error)
    return result


def run_langchain(settings, job):
    from langchain_openai import OpenAI

    llm = OpenAI(
        base_url=settings["base_url"],
        api_key=job.get("api_key", settings["api_key"]),
        model=job["model"],
        max_retries=0,
    )
    prompt = "Write a haiku about dawn"
    if job["stream"]:
        pieces = list(llm.stream(prompt))
        return {"text": "".join(pieces), "chunks": len(pieces)}
    generated = llm.generate([prompt])
    return {
        "text": generated.generations[0][0].text,
        "finish_reason": generated.generations[0][0].generation_info["finish_reason"],
        "usage": generated.llm_output["token_usage"],
    }


def plain_usage(usage):
    return {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def plain_error(error):
    return {
        "class": type(error).__name__,
        "is_api_error": isinstance(error, openai.APIError),
        "status": getattr(error, "status_code", None),
        # The SDK puts the status before the message; the body as the server sent it has it alone.
        "message": error.body["message"] if isinstance(error.body, dict) else error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def main():
    settings = json.load(sys.stdin)
    results = {}
    for job in settings["jobs"]:
        run = {"openai": run_openai, "langchain": run_langchain}[job["library"]]
        try:
            results[job["name"]] = run(settings, job)
        except openai.APIError as error:
            results[job["name"]] = {"error": plain_error(error)}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
