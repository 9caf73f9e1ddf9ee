"""What the inventory says of one service: pure configuration, no connection."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from blocks.gpu import Gpu
from blocks.ladder import Ladder
from blocks.models import SERVING_FIELDS, Frozen
from blocks.secret_ref import SecretRef
from blocks.web import HttpUrl

Engine = Literal["vllm", "litellm", "http"]
Autonomy = Literal["observe", "approve", "auto"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _known(keys: dict[str, str]) -> dict[str, str]:
    unknown = sorted(set(keys) - set(SERVING_FIELDS))
    if unknown:
        raise ValueError(
            f"unknown serving field {unknown[0]!r}; use one of {', '.join(sorted(SERVING_FIELDS))}"
        )
    return keys


class ArgumentsSource(Frozen):
    """The numbers live in the container's arguments (`--flag value`, `--flag=value`, `-tp 2`)."""

    kind: Literal["arguments"] = Field(default="arguments", description="numbers in arguments")
    env: dict[str, str] = Field(
        default={},
        description="serving field -> environment variable of the container, where an "
        "entrypoint script turns variables into arguments",
    )
    _env_known = field_validator("env")(_known)


class YamlSource(Frozen):
    """The numbers live in a YAML file the server is started with."""

    kind: Literal["yaml"] = Field(description="numbers in a YAML file")
    path: str = Field(description="file on the worker's host")
    key_map: dict[str, str] = Field(
        default={},
        description="serving field -> dotted key in the file; a field not named here is looked "
        "up under its own name, with _ or -",
    )
    value_map: dict[str, dict[str, str]] = Field(
        default={},
        description="serving field -> {vLLM's value: the file's word}, e.g. auto written as fp16",
    )
    _keys_known = field_validator("key_map")(_known)


class EnvFileSource(Frozen):
    """The numbers live in a .env file."""

    kind: Literal["env-file"] = Field(description="numbers in a .env file")
    path: str = Field(description="file on the worker's host")
    key_map: dict[str, str] = Field(
        default={},
        description="serving field -> variable; default is the field in capitals",
    )
    _keys_known = field_validator("key_map")(_known)


class LitellmSource(Frozen):
    """The limits live in a LiteLLM proxy's own config file (`model_list`)."""

    kind: Literal["litellm"] = Field(description="limits in LiteLLM's config file")
    path: str = Field(description="file on the worker's host")


class NoSource(Frozen):
    """It has no numbers that a procedure may change; it can still be restarted."""

    kind: Literal["none"] = Field(description="no numbers to change")


ServingSource = Annotated[
    ArgumentsSource | YamlSource | EnvFileSource | LitellmSource | NoSource,
    Field(discriminator="kind"),
]


class DockerRuntimeSpec(Frozen):
    """A container on a Docker Engine."""

    kind: Literal["docker"] = Field(description="a container on a Docker Engine")
    host: str = Field(default="local", description="name under `docker_hosts`")
    container: str = Field(description="container name", min_length=1)
    stop_timeout_s: float = Field(
        default=30, gt=0, le=600, description="from SIGTERM to SIGKILL, seconds"
    )


StatusFormat = Literal["systemd", "docker-state", "json", "exit-code"]


class CommandRuntimeSpec(Frozen):
    """Anything a command can start: systemd units, scripts, make targets. Argv lists, no shell."""

    kind: Literal["command"] = Field(description="commands start and stop it")
    restart: tuple[str, ...] = Field(
        min_length=1, description="starts it, or starts it anew; must end by itself"
    )
    stop: tuple[str, ...] = Field(min_length=1, description="stops it; no error if it is down")
    status: tuple[str, ...] = Field(
        min_length=1, description="prints its state and changes nothing"
    )
    status_format: StatusFormat = Field(
        description="systemd: `systemctl show` lines; docker-state: `docker inspect --format "
        "'{{json .}}'`; json: {phase, exit_code, ...}; exit-code: 0 running, 3 stopped"
    )
    logs: tuple[str, ...] = Field(
        min_length=1, description="prints its log, the latest start included, and ends"
    )
    cwd: str | None = Field(default=None, description="working directory of the commands")
    timeout_s: Seconds = Field(default=60, description="of one command, seconds")

    @field_validator("restart", "stop", "status", "logs", mode="before")
    @classmethod
    def _argv(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(
                "must be a list of words, not one string: no shell is used; "
                'write ["systemctl", "restart", "vllm"]'
            )
        return value


RuntimeSpec = Annotated[DockerRuntimeSpec | CommandRuntimeSpec, Field(discriminator="kind")]


class Model(Frozen):
    """The model a service serves."""

    name: str = Field(description="repository or path; used to look its size up")
    quantisation: str | None = Field(default=None, description="awq, gptq, fp8, ...")
    config_json: str | None = Field(
        default=None, description="path of the model's config.json, for the KV arithmetic"
    )
    link: str | None = Field(
        default=None,
        description="symlink on the worker's host that names the model in use; a dangling one is "
        "named as the cause, e.g. /opt/echo/vllm/current_model",
    )


class Slo(Frozen):
    """Service level objectives; a value that is absent is not checked."""

    p90_latency_s: float | None = Field(
        default=None, gt=0, description="90 of 100 requests answer within, seconds"
    )
    p95_latency_s: float | None = Field(
        default=None, gt=0, description="95 of 100 requests answer within, seconds"
    )
    p99_latency_s: float | None = Field(
        default=None, gt=0, description="99 of 100 requests answer within, seconds"
    )
    error_rate: float | None = Field(default=None, ge=0, le=1, description="share, 0..1")
    throughput_rps: float | None = Field(
        default=None, gt=0, description="at least, requests per second"
    )


class ChangePolicy(Frozen):
    """How a change to this service is guarded and verified."""

    autonomy: Autonomy = Field(
        default="approve",
        description="observe: plan and never act; approve: act once a person approved; auto: act",
    )
    autonomy_for: dict[str, Autonomy] = Field(
        default={}, description="procedure -> autonomy, e.g. remediate-oom: auto"
    )
    attempts: int = Field(default=3, ge=1, le=20, description="acts allowed within `window_s`")
    window_s: int = Field(default=3600, ge=60, description="what `attempts` counts over, seconds")
    cooldown_s: int = Field(default=300, ge=0, description="rest after any act, seconds")
    start_timeout_s: Seconds = Field(
        default=600,
        description="from start to the first token, seconds; a server whose log still moves "
        "gets three times as long",
    )
    stabilisation_s: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="how long it must stay healthy before the change counts, seconds",
    )
    decode_timeout_s: Seconds = Field(default=30, description="of a one-token completion, seconds")
    poll_s: float = Field(default=2, gt=0, le=60, description="between two looks, seconds")

    def autonomy_of(self, procedure: str) -> Autonomy:
        """The autonomy that holds for one procedure."""
        by_name = {name.replace("_", "-"): word for name, word in self.autonomy_for.items()}
        return by_name.get(procedure.replace("_", "-"), self.autonomy)


class Service(Frozen):
    """One service of a platform: a vLLM server, a LiteLLM proxy, or what answers over HTTP."""

    engine: Engine = Field(
        default="vllm",
        description="what serves: vllm; litellm (a proxy); http (anything else that answers on "
        "`health_path`: OpenWebUI, Qdrant, a router)",
    )
    url: HttpUrl = Field(description="base URL, e.g. http://wintermute.tailnet.local:8000")
    api_key: SecretRef | None = Field(
        default=None, description="reference to the server's key: ${ENV} or secret:NAME"
    )
    tls_verify: bool = Field(default=True, description="false accepts any certificate")
    runtime: RuntimeSpec = Field(description="how it is started, stopped and looked at")
    serving: ServingSource = Field(
        default=ArgumentsSource(), description="where its numbers are written down"
    )
    health_path: str = Field(
        default="/health",
        pattern=r"^/[^?#]*$",
        description="engine http: what must answer 200, e.g. /readyz",
    )
    routes: dict[str, str] = Field(
        default={},
        description="engine litellm: model name -> service, where its api_base is not that "
        "service's url",
    )
    host: str | None = Field(
        default=None, description="name under `hosts`: the machine it runs on, for its readings"
    )
    metrics: dict[str, str] = Field(
        default={},
        description="labels that select it in Prometheus; default: instance: HOST:PORT of its url",
    )
    served_model_name: str | None = Field(
        default=None, description="the model it must list to count as healthy; default: any"
    )
    model: Model | None = Field(default=None, description="what it serves, for the size check")
    gpu: Gpu | None = Field(default=None, description="what it runs on, for the size check")
    slo: Slo = Field(default=Slo(), description="service level objectives")
    ladder: Ladder = Field(default=Ladder(), description="what it may be stepped down to")
    policy: ChangePolicy = Field(
        default=ChangePolicy(), description="how changes are guarded and verified"
    )
    work_queue: str = Field(default="default", description="queue of a worker that can reach it")
    escalate_to: str | None = Field(
        default=None, description="Slack channel for this service's incidents"
    )

    @field_validator("url")
    @classmethod
    def _not_v1(cls, value: str) -> str:
        if urlsplit(value).path.endswith("/v1"):
            raise ValueError("ends in /v1: leave that away, /health and /metrics are asked for too")
        return value

    @property
    def labels(self) -> dict[str, str]:
        """The labels that select it in Prometheus."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self.metrics or {"instance": f"{parts.hostname}:{port}"}

    @model_validator(mode="before")
    @classmethod
    def _source_of_engine(cls, values: object) -> object:
        """A service that is no vLLM server has no numbers unless the inventory says so."""
        if isinstance(values, dict) and values.get("engine", "vllm") != "vllm":
            return {"serving": {"kind": "none"}, **values}
        return values

    @model_validator(mode="after")
    def _fields_fit_engine(self) -> "Service":
        sources = {"litellm": ("litellm", "none"), "http": ("none",)}
        allowed = sources.get(self.engine, ("arguments", "yaml", "env-file"))
        if self.serving.kind not in allowed:
            raise ValueError(
                f"serving.kind {self.serving.kind!r} does not fit engine {self.engine!r}; "
                f"use {' or '.join(allowed)}"
            )
        alien = {
            "vllm": ("health_path", "routes"),
            "litellm": ("health_path", "model", "gpu", "ladder"),
            "http": ("routes", "model", "gpu", "ladder", "served_model_name"),
        }
        for name in alien[self.engine]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no meaning for engine {self.engine!r}; remove it")
        return self

    @model_validator(mode="after")
    def _source_fits_runtime(self) -> "Service":
        if self.runtime.kind == "command" and self.serving.kind == "arguments":
            raise ValueError(
                "serving.kind 'arguments' needs runtime 'docker'; a command runtime keeps its "
                "numbers in a file: use kind yaml or env-file with a path"
            )
        return self
