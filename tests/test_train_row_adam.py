from __future__ import annotations

import pytest
import torch

from spaceport_lab.errors import WorkspaceError
from spaceport_lab.train.row_adam import RowAdam

CPU = torch.device("cpu")


def test_each_row_moves_as_torchs_adam_would_move_it_alone() -> None:
    g = torch.Generator().manual_seed(0)
    table, ours = torch.randn(3, 2, 4, generator=g), RowAdam((3, 2, 4), CPU)
    alone = [torch.nn.Parameter(row.clone()) for row in table]
    theirs = [torch.optim.Adam([row], lr=0.1, eps=1e-15) for row in alone]
    for step in range(60):
        row = int(torch.randint(3, (1,), generator=g))
        gradient = torch.randn(2, 4, generator=g)
        alone[row].grad = gradient.clone()
        theirs[row].param_groups[0]["lr"] = lr = 0.1 * 0.95**step
        theirs[row].step()
        table[row] += ours.change(row, gradient, lr)
        torch.testing.assert_close(table, torch.stack([row.detach() for row in alone]), rtol=1e-4, atol=1e-5)


def test_rows_without_a_gradient_keep_their_moments() -> None:
    adam = RowAdam((4, 3), CPU)
    adam.change(1, torch.ones(3), 0.1)
    before = adam.state()
    adam.change(2, torch.ones(3), 0.1)
    for name, values in adam.state().items():
        assert torch.equal(values[[0, 1, 3]], before[name][[0, 1, 3]])
    assert adam.counts.tolist() == [0, 1, 1, 0]


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(WorkspaceError, match=r"(?s)other views.*\[5, 3\].*checkpoint\.pt"):
        RowAdam((4, 3), CPU).load_state(RowAdam((5, 3), CPU).state())
