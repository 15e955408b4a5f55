"""Which process and which node this is, by the variables of whoever has started it."""

import os
from pathlib import Path

import pytest

from sidestep.runtime.errors import BadSpecError
from sidestep.runtime.ranks import (
    ENDS_VARIABLE,
    LISTENER_VARIABLE,
    Node,
    Rank,
    follower,
    leads_another_machine,
    lost_rank,
    node_in,
    rank_in,
    share_in,
)
from tests.facts import tells

OF_LAUNCH = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
}


def test_a_rank() -> None:
    assert rank_in(OF_LAUNCH) == Rank(5, 8, 1, "node-0", 29500)
    assert follower(OF_LAUNCH) == 5


def test_torchrun_s() -> None:
    of_torchrun = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    rank = rank_in(OF_LAUNCH | of_torchrun)
    assert rank == Rank(5, 8, 1, "node-0", 29500, is_hosted=True, attempt="2")
    assert rank.is_by_torchrun


def test_blanks_and_line_ends_around_a_value_are_no_part_of_it() -> None:
    """So values look that come from files, and from templates of which nothing was filled in."""
    assert rank_in({name: f" {value}\r\n" for name, value in OF_LAUNCH.items()}) == rank_in(OF_LAUNCH)
    blank = ("LOCAL_RANK", LISTENER_VARIABLE, "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT")
    assert rank_in(OF_LAUNCH | dict.fromkeys(blank, " \n")) == Rank(5, 8, 5, "node-0", 29500)
    assert share_in(OF_LAUNCH | {"LOCAL_WORLD_SIZE": " "}) == (0, 1)
    assert rank_in(OF_LAUNCH | {"TORCHELASTIC_USE_AGENT_STORE": "True\n"}) == Rank(
        *(5, 8, 1, "node-0", 29500), is_hosted=True
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0"},
        OF_LAUNCH | {"RANK": "", "WORLD_SIZE": ""},
        OF_LAUNCH | {"WORLD_SIZE": "\n"},
        OF_LAUNCH | {"RANK": "0", "WORLD_SIZE": "1"},
        {"JOB_COMPLETION_INDEX": "3"},  # of a sweep or of shards, unless `sidestep launch` reads it
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"},
    ],
)
def test_one_process_is_no_rank(environ: dict[str, str]) -> None:
    assert rank_in(environ) is None
    assert follower(environ) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "8"}, "RANK is 8"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        ({"RANK": "-1"}, "whole number"),
        ({"WORLD_SIZE": "many"}, "whole number"),
        ({"MASTER_ADDR": ""}, "sidestep launch"),
        ({"MASTER_ADDR": "  "}, "sidestep launch"),
        ({"MASTER_PORT": "\n"}, "sidestep launch"),
        ({"MASTER_PORT": ""}, "sidestep launch"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0"),
    ],
)
def test_a_rank_that_cannot_be(changed: dict[str, str], said: str) -> None:
    with pytest.raises(BadSpecError, match=said):
        rank_in(OF_LAUNCH | changed)
    assert follower(OF_LAUNCH | changed) == 0  # the error is to be seen


@pytest.mark.parametrize(
    ("environ", "nodes", "found"),
    [
        ({}, None, Node(0, 1, "127.0.0.1", 0)),
        ({"JOB_COMPLETION_INDEX": "3"}, None, Node(0, 1, "127.0.0.1", 0)),
        ({"JOB_COMPLETION_INDEX": "3", "MASTER_ADDR": "a-0"}, 4, Node(3, 4, "a-0", 29500)),
        ({"JOB_COMPLETION_INDEX": "3", "MASTER_ADDR": "a", "MASTER_PORT": "7"}, 4, Node(3, 4, "a", 7)),
        ({"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "b"}, None, Node(1, 2, "b", 29500)),
        (
            {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LAUNCH_NODE_IPADDR": "c"},
            2,
            Node(1, 2, "c", 29500),
        ),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8"}, None, Node(0, 1, "127.0.0.1", 0)),
        (
            {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"},
            None,
            Node(0, 2, "10.0.0.1", 29500),
        ),
        (
            {"DSTACK_NODE_RANK": "1", "DSTACK_NODES_NUM": "2", "DSTACK_MASTER_NODE_IP": "d"},
            None,
            Node(1, 2, "d", 29500),
        ),
        (  # a list from a file with carriage returns
            {"SKYPILOT_NODE_RANK": "1\r\n", "SKYPILOT_NODE_IPS": "\n10.0.0.1\r\n10.0.0.2\r\n"},
            2,
            Node(1, 2, "10.0.0.1", 29500),
        ),
        (  # what is blank is not set
            {"PET_NODE_RANK": " ", "DSTACK_NODE_RANK": "1 ", "DSTACK_NODES_NUM": " ", "MASTER_PORT": "\n"}
            | {"MASTER_ADDR": "  ", "DSTACK_MASTER_NODE_IP": " d\n"},
            2,
            Node(1, 2, "d", 29500),
        ),
        ({"PET_NODE_RANK": "0", "PET_NNODES": " ", "PET_MASTER_ADDR": "b"}, None, Node(0, 1, "127.0.0.1", 0)),
        (  # in this order
            {"PET_NODE_RANK": "1", "JOB_COMPLETION_INDEX": "0", "MASTER_ADDR": "a"},
            2,
            Node(1, 2, "a", 29500),
        ),
    ],
)
def test_a_node(environ: dict[str, str], nodes: int | None, found: Node) -> None:
    assert node_in(environ, nodes) == found


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "nothing says which"),
        ({"JOB_COMPLETION_INDEX": "2", "MASTER_ADDR": "a"}, "is 2, but --nodes is 2"),
        ({"JOB_COMPLETION_INDEX": "0"}, "MASTER_ADDR"),
        ({"JOB_COMPLETION_INDEX": "0", "MASTER_ADDR": "  "}, "MASTER_ADDR"),
        ({"PET_NODE_RANK": "0", "PET_NNODES": "3", "MASTER_ADDR": "a"}, "PET_NNODES is 3"),
        ({"PET_NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "99999"}, "MASTER_PORT is 99999"),
    ],
)
def test_a_node_that_cannot_be(environ: dict[str, str], said: str) -> None:
    with pytest.raises(BadSpecError, match=said):
        node_in(environ, 2)


def test_a_share_of_this_machine() -> None:
    rank = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert share_in({**rank, "LOCAL_WORLD_SIZE": "4"}) == (1, 4)
    assert share_in(rank) == (0, 1)  # nobody says how many are here
    assert share_in({"LOCAL_WORLD_SIZE": "4"}) == (0, 1)


@pytest.mark.parametrize(
    ("number", "local", "leads"), [("0", "0", False), ("1", "1", False), ("2", "0", True), ("3", "1", False)]
)
def test_the_first_of_a_machine_without_rank_0(number: str, local: str, leads: bool) -> None:
    """It shows that machine's warnings."""
    assert leads_another_machine(OF_LAUNCH | {"RANK": number, "LOCAL_RANK": local}) == leads
    assert not leads_another_machine({})


def test_which_rank_the_launcher_has_seen_go() -> None:
    noted = os.memfd_create("ends")
    environ = {ENDS_VARIABLE: str(noted)}
    assert lost_rank({}) == lost_rank(environ) == ""
    os.write(noted, b"3 71\n1 137\n")
    assert tells(lost_rank(environ), "rank 3 was lost with 71", "memory")
    os.close(noted)
    assert lost_rank(environ) == lost_rank({ENDS_VARIABLE: "x"}) == ""
    with Path(__file__).open() as other:
        assert lost_rank({ENDS_VARIABLE: str(other.fileno())}) == ""
