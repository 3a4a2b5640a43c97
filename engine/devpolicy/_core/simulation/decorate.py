"""A context manager as a decorator, for every kind of function.

A generator is entered each time that it is resumed and left at each `yield`: a context variable that stayed set
between would be seen by whoever consumes it.
"""

from __future__ import annotations

from functools import partial, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

F = TypeVar("F", bound="Callable[..., Any]")


def decorated(manager: AbstractContextManager[Any], function: F) -> F:
    """Return `function` with its body run inside `manager`, which may be entered again."""
    return cast("F", wraps(function)(_wrapper(manager, function)))


def _wrapper(manager: AbstractContextManager[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    if isasyncgenfunction(function):
        return _generating_async(manager, function)
    if isgeneratorfunction(function):
        # A generator function itself, so that pytest and its like take it for one.
        def generating(*args: Any, **kwargs: Any) -> Any:
            return (yield from _generator(manager, function(*args, **kwargs)))

        return generating
    if iscoroutinefunction(function):

        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            with manager:
                return await function(*args, **kwargs)

        return awaiting

    def calling(*args: Any, **kwargs: Any) -> Any:
        with manager:
            return function(*args, **kwargs)

    return calling


def _generating_async(manager: AbstractContextManager[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    # `async def` with `yield` has no `yield from`, so the loop stands in it.
    async def generating_async(*args: Any, **kwargs: Any) -> Any:
        body = function(*args, **kwargs)
        resume: Callable[[], Any] = body.__anext__
        try:
            while True:
                try:
                    with manager:
                        value = await resume()
                except StopAsyncIteration:
                    return
                try:
                    resume = partial(body.asend, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - what the consumer throws goes into the body
                    resume = partial(body.athrow, error)
        finally:
            with manager:
                await body.aclose()

    return generating_async


def _generator(manager: AbstractContextManager[Any], body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    resume: Callable[[], Any] = body.__next__
    try:
        while True:
            try:
                with manager:
                    value = resume()
            except StopIteration as finished:
                return finished.value
            try:
                resume = partial(body.send, (yield value))
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - what the consumer throws goes into the body
                resume = partial(body.throw, error)
    finally:
        with manager:
            body.close()
