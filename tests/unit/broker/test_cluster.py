"""A cluster without Kafka: the properties of each node, its ports, and when a node is started again."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from iot.broker import __main__ as command
from iot.broker.broker import Broker
from iot.broker.cluster import Cluster, choose_ports, controllers_of
from iot.broker.data_folder import DataFolder
from iot.broker.node import find_free_port, replication
from iot.settings import UserError


class FakeNode:
    """A node whose process is a text: how it ended, or nothing while it runs."""

    number, address, pid = 1, "localhost:9092", 42

    def __init__(self) -> None:
        self.ended, self.accepts, self.launches = "", True, 0
        self.error: OSError | None = None

    def how_ended(self) -> str:
        return self.ended

    def last_error(self) -> str:
        return "its.log says: no room"

    def accepts_connections(self) -> bool:
        return self.accepts

    def launch(self, java: list[str], lock_fd: int) -> None:
        self.launches += 1
        if self.error:
            raise self.error
        self.ended = ""


def written(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a cluster would write for each node."""
    made: dict[int, dict[str, str]] = {}
    for node in cluster.nodes:
        monkeypatch.setattr(
            node,
            "prepare",
            lambda java, controller, properties, cluster_id, node=node: made.update(
                {node.number: node.server_properties(controller, properties) | {"cluster": cluster_id}}
            ),
        )
        monkeypatch.setattr(node, "launch", lambda java, lock_fd: None)
    cluster._folder.lock("this test", threading.Event())
    try:
        cluster._launch([])
    finally:
        cluster._folder.unlock()
    return [made[number] for number in sorted(made)]


def test_every_node_has_its_own_ports_and_knows_all_controllers(tmp_path, monkeypatch):
    cluster = Cluster(3, find_free_port(), tmp_path)
    nodes = written(cluster, monkeypatch)
    assert [node["node.id"] for node in nodes] == ["1", "2", "3"]
    assert {node["process.roles"] for node in nodes} == {"broker,controller"}
    [voters] = {node["controller.quorum.voters"] for node in nodes}
    controllers = dict(entry.split("@") for entry in voters.split(","))
    assert list(controllers) == ["1", "2", "3"]
    for node in nodes:
        assert node["listeners"].endswith(f",CONTROLLER://{controllers[node['node.id']]}")
    places = [place for node in nodes for place in node["listeners"].split(",")]
    assert len(set(places)) == len(places)
    assert [node["advertised.listeners"].split(",")[0] for node in nodes] == [
        f"PLAINTEXT://127.0.0.1:{node.port}" for node in cluster.nodes
    ]
    assert len({node["cluster"] for node in nodes}) == 1


def test_the_cluster_keeps_its_id(tmp_path, monkeypatch):
    first = written(Cluster(3, find_free_port(), tmp_path), monkeypatch)
    assert [node["cluster"] for node in written(Cluster(3, find_free_port(), tmp_path), monkeypatch)] == [
        node["cluster"] for node in first
    ]


def test_given_properties_override_those_of_each_node(tmp_path, monkeypatch):
    cluster = Cluster(3, find_free_port(), tmp_path, properties={"min.insync.replicas": "1", "log.segment.bytes": "1"})
    for node in written(cluster, monkeypatch):
        assert (node["min.insync.replicas"], node["log.segment.bytes"]) == ("1", "1")
        assert node["default.replication.factor"] == "3"


@pytest.mark.parametrize(("nodes", "copies", "in_sync"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (4, 3, 2), (9, 3, 2)])
def test_a_write_survives_the_death_of_a_node_where_there_are_three(nodes, copies, in_sync):
    properties = replication(nodes)
    assert {int(value) for key, value in properties.items() if key.endswith("replication.factor")} == {copies}
    assert {int(value) for key, value in properties.items() if key.endswith((".isr", ".replicas"))} == {in_sync}


@pytest.mark.parametrize(("nodes", "controllers"), [(2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)])
def test_the_number_of_controllers_is_odd(nodes, controllers, tmp_path, monkeypatch):
    assert controllers_of(nodes) == controllers
    roles = [
        node["process.roles"] for node in written(Cluster(nodes, find_free_port(), tmp_path / str(nodes)), monkeypatch)
    ]
    assert roles == ["broker,controller"] * controllers + ["broker"] * (nodes - controllers)


def test_ports_follow_the_first_one_and_pass_over_those_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        ports = choose_ports(used - 1, 4)
    assert ports[0] == used - 1
    assert used not in ports
    assert len(set(ports)) == 4


def test_ports_are_found_elsewhere_where_none_is_left_above():
    ports = choose_ports(65_535, 6)
    assert ports[0] == 65_535
    assert len(set(ports)) == 6
    assert max(ports) <= 65_535


@pytest.fixture
def watched(tmp_path) -> tuple[Cluster, FakeNode]:
    """A cluster whose only node is a fake that was started at 0 s."""
    cluster, node = Cluster(2, find_free_port(), tmp_path), FakeNode()
    cluster.nodes = [node]  # type: ignore[list-item]
    cluster._started(0.0)
    cluster._folder.lock("this test", threading.Event())
    return cluster, node


def test_a_node_that_dies_is_started_again_after_a_pause(watched):
    cluster, node = watched
    assert cluster.watch(5.0) == []
    node.ended, node.accepts = "was killed by signal 9", False
    assert cluster.watch(6.0) == ["node 1 (localhost:9092) was killed by signal 9: starting it again in 1 s"]
    assert cluster.watch(6.9) == []
    assert node.launches == 0
    assert cluster.watch(7.1) == []
    assert node.launches == 1
    assert cluster.watch(8.0) == []
    node.accepts = True
    assert cluster.watch(9.0) == ["node 1 (localhost:9092) is back, process 42"]
    assert cluster.watch(9.2) == []


def pauses_of(cluster: Cluster, node: FakeNode, deaths: int, runs_s: float) -> list[float]:
    """How long the cluster pauses after each of several deaths of a node that runs so long between them."""
    now_s, pauses = 100.0, []
    for _ in range(deaths):
        node.ended = "ended with status 1"
        cluster.watch(now_s)
        died_s, launches = now_s, node.launches
        while node.launches == launches:
            now_s += 0.25
            cluster.watch(now_s)
        pauses.append(now_s - died_s)
        now_s += runs_s
    return pauses


def test_the_pause_grows_while_a_node_keeps_dying(watched):
    cluster, node = watched
    assert pauses_of(cluster, node, 7, runs_s=2) == [1, 2, 4, 8, 16, 30, 30]


def test_the_pause_is_short_again_once_a_node_has_run_for_long(watched):
    cluster, node = watched
    assert pauses_of(cluster, node, 3, runs_s=100) == [1, 1, 1]


def test_a_node_that_ends_by_itself_is_reported_with_the_error_of_its_log(watched):
    cluster, node = watched
    node.ended = "ended with status 1"
    assert cluster.watch(6.0) == [
        "node 1 (localhost:9092) ended with status 1 (its.log says: no room): starting it again in 1 s"
    ]


def test_a_process_that_cannot_be_started_is_tried_again(watched):
    cluster, node = watched
    node.ended, node.error = "was killed by signal 9", OSError(12, "Cannot allocate memory")
    cluster.watch(6.0)
    assert cluster.watch(7.1) == ["node 1 (localhost:9092) cannot be started: Cannot allocate memory"]
    assert cluster.watch(7.3) == ["node 1 (localhost:9092) was killed by signal 9: starting it again in 2 s"]


def folder_of(path: Path, nodes: int) -> DataFolder:
    """A folder that holds the data of this number of nodes."""
    folder = DataFolder(path)
    if nodes == 1:
        (path / "kafka").mkdir()
    else:
        folder.cluster_id(nodes)
    return folder


@pytest.mark.parametrize(("made", "asked"), [(1, 3), (3, 1), (3, 5), (5, 3), (2, 3)])
def test_a_folder_of_another_number_of_nodes_is_refused(tmp_path, made, asked):
    folder = folder_of(tmp_path, made)
    with pytest.raises(
        UserError, match=rf"data folder {tmp_path} is of a .*: start it with --nodes {made}, or .*-dir$"
    ):
        folder.require_nodes(asked)


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_folder_of_the_same_number_of_nodes_is_taken(tmp_path, nodes):
    folder_of(tmp_path, nodes).require_nodes(nodes)


def test_a_new_folder_is_for_any_number_of_nodes(tmp_path):
    for nodes in (1, 2, 9):
        DataFolder(tmp_path).require_nodes(nodes)


@pytest.mark.parametrize("text", ["nodes=3\n", "", "nodes\n"])
def test_a_damaged_cluster_file_is_a_one_line_error(tmp_path, text):
    (tmp_path / "cluster.properties").write_text(text)
    with pytest.raises(UserError, match=r"^\S+cluster.properties.*"):
        DataFolder(tmp_path).cluster_id(3)


def test_folders_of_different_sizes_are_different_by_default():
    assert Broker().data_dir != Cluster(3).data_dir != Cluster(5).data_dir


@pytest.mark.parametrize("wrong", ["0", "-1", "10", "three", "2.5"])
def test_a_wrong_number_of_nodes_is_refused(wrong, refuses):
    assert "--nodes" in refuses(command.parse_args, ["--nodes", wrong])


def test_one_node_is_the_plain_broker(tmp_path):
    for flags, kind in ([], Broker), (["--nodes", "1"], Broker), (["--nodes", "2"], Cluster):
        assert isinstance(command.make_kafka(command.parse_args([*flags, "--data-dir", str(tmp_path)])), kind)
