"""One service with everything an adapter needs, and the way to its runtime."""

from blocks import http_service, litellm_proxy, vllm_server
from blocks.command_runtime import CommandRuntime
from blocks.docker_host import DockerHostSpec
from blocks.docker_runtime import DockerRuntime
from blocks.errors import Permanent
from blocks.models import Frozen, Serving
from blocks.runtime import Runtime
from blocks.service import ArgumentsSource, Service
from blocks.slack_workspace import SlackSpec
from blocks.stack import StackSpec
from blocks.stack_blocks import load_stack
from blocks.windows import Window


class Target(Frozen):
    """A service of a stack as one run saw it in the inventory. Holds no secret."""

    stack: str
    name: str
    service: Service
    docker_host: DockerHostSpec
    slack: SlackSpec | None = None
    freeze: tuple[Window, ...] = ()
    maintenance: tuple[Window, ...] = ()

    @property
    def label(self) -> str:
        """`stack/service`, as people read it."""
        return f"{self.stack}/{self.name}"


def target_of(spec: StackSpec, name: str) -> Target:
    """Pick one service.

    Raises:
        Permanent: the stack has no such service.
    """
    service = spec.service(name)
    host = service.runtime.host if service.runtime.kind == "docker" else "local"
    return Target(
        stack=spec.name,
        name=name,
        service=service,
        docker_host=spec.docker_host(host),
        slack=spec.slack,
        freeze=spec.freeze,
        maintenance=spec.maintenance,
    )


async def load_target(stack: str, service: str) -> Target:
    """A service by stack name or file, and service name.

    Raises:
        Permanent: unknown stack or service, or a faulty inventory.
    """
    return target_of(await load_stack(stack), service)


def runtime_of(target: Target) -> Runtime:
    """The adapter that speaks to where the service runs; nothing connects yet."""
    service = target.service
    if service.runtime.kind == "docker":
        return DockerRuntime(target.label, service.runtime, service.serving, target.docker_host)
    if isinstance(service.serving, ArgumentsSource):
        raise Permanent(f"{target.label}: a command runtime needs serving.kind yaml or env-file")
    return CommandRuntime(target.label, service.runtime, service.serving)


async def answers(target: Target) -> Serving:
    """What the service answers now, asked as its engine is asked; never raises for a sick one.

    Raises:
        Permanent: the API key cannot be resolved.
    """
    if target.service.engine == "vllm":
        return await vllm_server.observe(target.service)
    if target.service.engine == "litellm":
        return await litellm_proxy.observe(target.service)
    return await http_service.observe(target.service)
