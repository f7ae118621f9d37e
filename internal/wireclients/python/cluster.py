"""Channels to the brokers that the environment names, and who leads what."""

import os
import time

import grpc
from grpc_status import rpc_status

from penstock.v1 import admin_pb2, admin_pb2_grpc, common_pb2, fetch_pb2, fetch_pb2_grpc, group_pb2_grpc, produce_pb2_grpc

BROKERS = os.environ["BROKERS"].split(",")
TIMEOUT = 30  # seconds, of a call


class Broker:
    def __init__(self, address):
        self.address = address
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 64 << 20)])
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.producing = produce_pb2_grpc.ProduceServiceStub(self.channel)
        self.fetching = fetch_pb2_grpc.FetchServiceStub(self.channel)
        self.groups = group_pb2_grpc.GroupServiceStub(self.channel)


brokers = {address: Broker(address) for address in BROKERS}
first = brokers[BROKERS[0]]


def eventually(ask, what):
    """Asks until the answer is true, which it returns."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


def create(topic, partitions=1, **configs):
    """Makes a topic and waits for its leaders, who take it up when they hear of it."""
    answer = first.admin.CreateTopic(
        admin_pb2.CreateTopicRequest(
            name=topic,
            partitions=partitions,
            replication_factor=len(BROKERS),
            configs={name.replace("_", "."): value for name, value in configs.items()},
        ),
        timeout=TIMEOUT,
    )
    for p in range(partitions):
        eventually(lambda: serves(topic, p), f"a leader of {topic}-{p}")
    return answer


def leader(topic, partition=0):
    """The broker that leads a partition; None: none that is known."""
    m = first.admin.Metadata(admin_pb2.MetadataRequest(topics=[topic]), timeout=TIMEOUT)
    if not m.topics or partition >= len(m.topics[0].partitions):
        return None
    node = m.topics[0].partitions[partition].leader
    return next((brokers[b.address] for b in m.brokers if b.node_id == node), None)


def serves(topic, partition):
    at = leader(topic, partition)
    if at is None:
        return False
    end = fetch_pb2.ListOffsetsPartition(topic=topic, partition=partition, query=fetch_pb2.OFFSET_QUERY_LATEST)
    answer = at.fetching.ListOffsets(fetch_pb2.ListOffsetsRequest(partitions=[end]), timeout=TIMEOUT)
    error = answer.results[0].error
    assert not answer.results[0].HasField("error") or error.retriable, error
    return not answer.results[0].HasField("error")


def detail(error):
    """The penstock.v1.Error of a call that was refused."""
    found = common_pb2.Error()
    assert rpc_status.from_call(error).details[0].Unpack(found), error
    return found
