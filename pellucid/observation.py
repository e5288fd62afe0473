"""The observation of one call: what its readouts found, and any exact part of the weights on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid import engines, showing
from pellucid.problem import Problem, Result
from pellucid.tensors.chosen import Chosen, positions

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from pellucid.readouts import Readout
    from pellucid.viewer.viewing.viewer import Viewer


class Observation:
    """What one call of attention did. Never holds the queries x keys matrix.

    A readout's result is an attribute by its name (`observation.entropy`) and an item (`observation["entropy"]`,
    `observation["mean_distance"]`). `lse` is always there.
    """

    def __init__(self, problem: Problem, result: Result, shaped: Callable[[Tensor], Tensor]) -> None:
        self._problem = replace(problem, readouts=())  # what `weights` needs; readouts may hold what no file can
        self._shaped = shaped
        self._versions = None if torch.compiler.is_compiling() else tuple(map(_version, self._watched()))
        self._lse = result.lse
        self._over_heads = tuple(readout.name for readout in problem.readouts if not readout.per_head)
        lookup = {readout.name: readout for readout in problem.readouts}
        self._over_rows = tuple(readout.name for readout in problem.readouts if readout.joins_rows)
        self._readings = {"lse": shaped(result.lse)} | {
            name: _shown(lookup[name], reading, shaped) for name, reading in result.readings.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_versions": () if self._is_changed() else self._versions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._versions:  # those of copies are counted anew
            self._versions = tuple(map(_version, self._watched()))

    def _is_changed(self) -> bool:
        """Whether a tensor that weights are computed from was changed in place."""
        return self._versions is not None and self._versions != tuple(map(_version, self._watched()))

    def _watched(self) -> tuple[Tensor, ...]:
        """The tensors that weights are computed from."""
        return self._problem.tensors

    def __getitem__(self, name: str) -> Any:
        """The result of the readout called `name`. Raises KeyError, naming those there are."""
        if name not in self._readings:
            raise KeyError(self._missing(name))
        return self._readings[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._readings:
            raise AttributeError(name if name.startswith("_") else self._missing(name))
        return self._readings[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._readings]

    def __contains__(self, name: str) -> bool:
        return name in self._readings

    def __repr__(self) -> str:
        return f"Observation({self.heads} heads, {self.q_len} queries x {self.k_len} keys: {', '.join(self._readings)})"

    def _missing(self, name: str) -> str:
        read = ", ".join(self._readings)
        return f"{name!r} was not read; pass its readout to observe(readouts=[...]). Read were: {read}"

    @property
    def readouts(self) -> tuple[str, ...]:
        """The names of what was read."""
        return tuple(self._readings)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self._problem.heads

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return self._problem.q_len

    @property
    def k_len(self) -> int:
        """Number of keys."""
        return self._problem.k_len

    def weights(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """An exact part of the attention weights, computed now from query, key and lse: [..., heads, queries, keys].

        Args:
            queries: which queries, a slice, one index, or several; all if None. Dimensions are kept.
            keys: which keys, the same way.
            heads: which heads, the same way.

        Returns:
            The weights before dropout, in float32 (float64 for float64 inputs), without gradient. A row of all keys
            sums to 1, less the sink's share; a row with no key allowed is 0.

        Raises:
            IndexError: an index beyond the queries, keys or heads.
            RuntimeError: query, key, a mask or a captured tensor was changed in place since. Not seen in tensors of
                inference mode, which do not count their changes.

        """
        problem = self._problem
        if self._is_changed():
            raise RuntimeError(
                "weights: they are computed from query, key, masks and captured tensors, of which one was changed in "
                "place since the call; ask before it is changed, or observe a clone"
            )
        rows, columns, head = self._chosen(queries, keys, heads)
        with torch.no_grad(), problem.own_precision():
            lse = self._lse.detach()[..., head, :][..., rows]
            return self._shaped(engines.weights(problem, lse, rows, columns, head))

    def dropped(self, queries: Chosen = None, keys: Chosen = None, heads: Chosen = None) -> Tensor:
        """Which weights dropout took from the output, decided again from the call's seed: [..., heads, queries, keys].

        The output is `torch.where(dropped(), 0, weights()) / (1 - dropout_p) @ value`.

        Args:
            queries: which queries, a slice, one index, or several; all if None. Dimensions are kept.
            keys: which keys, the same way.
            heads: which heads, the same way.

        Returns:
            Bool, False everywhere for a call without dropout. Dropout does not know of masks: what is dropped where no
            key is allowed changes nothing.

        Raises:
            IndexError: an index beyond the queries, keys or heads.

        Example:
            >>> import torch, pellucid
            >>> x = torch.rand(10, 4)
            >>> output, seen = pellucid.observe(x, x, x, dropout_p=0.5)
            >>> kept = seen.weights().masked_fill(seen.dropped(), 0.0) / 0.5
            >>> torch.allclose(kept @ x, output)
            True

        """
        return self._shaped(~self._problem.kept(self._problem.place(*self._chosen(queries, keys, heads))))

    def _chosen(self, queries: Chosen, keys: Chosen, heads: Chosen) -> tuple[Tensor, Tensor, Tensor]:
        """The indices that were asked for."""
        device = self._problem.query.device
        return (
            positions("queries", queries, self.q_len, device),
            positions("keys", keys, self.k_len, device),
            positions("heads", heads, self.heads, device),
        )

    def view(self, tokens: Any = None, source_tokens: Any = None, **options: Any) -> Viewer:
        """Show it in the notebook's cell, or in the browser: `pellucid.view`, which says what else it takes.

        Args:
            tokens: the queries' tokens, a list or one for each sequence of the batch; in self-attention the keys' too.
            source_tokens: the keys' tokens in cross-attention, the same way.
            options: see `pellucid.view`.

        Returns:
            A Viewer: `.url`, `.save("page.html")`, `.wait()`, `.close()`.

        Raises:
            ImportError: what serves the page is not installed.
            RuntimeError: a tensor that weights are computed from was changed in place since the call.
            TypeError: tokens that are no texts.
            ValueError: more tokens than there are queries or keys, or fewer.

        """
        return showing.view(self, tokens, source_tokens, **options)

    def save_picture(
        self,
        path: str | PathLike[str],
        *,
        tokens: Any = None,
        source_tokens: Any = None,
        head: int | None = None,
        pool: str = "mean",
        queries: slice = slice(None),
        keys: slice = slice(None),
        sequence: int = 0,
        title: str | None = None,
    ) -> Path:
        """Draw the weights of a head, with tokens on the axes where they fit; matplotlib is needed.

        Args:
            path: of a .png, .svg or .pdf.
            tokens: the queries' tokens, a list, or one for each sequence; in self-attention the keys' too.
            source_tokens: the keys' tokens in cross-attention, the same way.
            head: its number; all of them as one if None.
            pool: "mean" or "max": what of several heads, and of the weights of a cell where there are too many to draw
                each: means over its queries of their weight on its keys, or the largest.
            queries: only these rows, a slice.
            keys: only these keys, a slice.
            sequence: its number in the batch, whose dimensions are counted as one.
            title: above the picture.

        Returns:
            The path.

        Raises:
            ImportError: matplotlib is not installed.
            IndexError: no such head or sequence.
            OSError: the file cannot be written.
            RuntimeError: a tensor that weights are computed from was changed in place since the call.
            TypeError: tokens that are no texts.
            ValueError: more tokens than there are queries or keys, or fewer; another ending than these.

        """
        return showing.save_picture(
            self, path, tokens=tokens, source_tokens=source_tokens, head=head, pool=pool, queries=queries, keys=keys,
            sequence=sequence, title=title,
        )  # fmt: skip


def _shown(readout: Readout, reading: Any, shaped: Callable[[Tensor], Tensor]) -> Any:
    """A reading as a user gets it, without a dimension of heads where the call had none."""
    if readout.joins_rows:
        return readout.joined_rows(reading)
    return readout.map(reading, shaped) if readout.per_head else reading


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place."""
    return None if tensor.is_inference() else tensor._version
