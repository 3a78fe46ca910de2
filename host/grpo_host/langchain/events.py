"""The stream of an agent's answer as LangChain's events v3: one message, from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from langchain_core.language_models._compat_bridge import achunks_to_events, chunks_to_events
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream, ChatModelStream
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk


def events(chunks: Iterator[AIMessageChunk]) -> ChatModelStream:
    """The events of ``chunks``, which are asked for as the events are."""
    stream = ChatModelStream()
    told = chunks_to_events(ChatGenerationChunk(message=chunk) for chunk in chunks)

    def more() -> bool:
        try:
            stream.dispatch(next(told))
        except StopIteration:
            return False
        except BaseException as problem:
            stream.fail(problem)  # whoever reads the stream is told
            return False
        return True

    stream.bind_pump(more)
    return stream


class AsyncEvents(AsyncChatModelStream):
    """As ``events``; several may read it side by side. Closing it ends the answer."""

    def __init__(self, chunks: AsyncGenerator[AIMessageChunk, None]) -> None:
        super().__init__()
        self._chunks = chunks
        self._told = achunks_to_events(_generations(chunks))
        self._reading = asyncio.Lock()
        self.set_arequest_more(self._more)

    async def _more(self) -> bool:
        async with self._reading:
            if self.done:
                return False
            try:
                self.dispatch(await anext(self._told))
            except StopAsyncIteration:
                return False
            except BaseException as problem:
                self.fail(problem)
                if isinstance(problem, asyncio.CancelledError):
                    raise
                return False
            return True

    async def aclose(self) -> None:
        async with self._reading:
            await self._chunks.aclose()
            if not self.done:
                self.fail(asyncio.CancelledError())


async def _generations(chunks: AsyncIterator[AIMessageChunk]) -> AsyncIterator[ChatGenerationChunk]:
    async for chunk in chunks:
        yield ChatGenerationChunk(message=chunk)
