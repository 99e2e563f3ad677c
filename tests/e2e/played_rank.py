"""A rank played by the test, to be slow, silent, wrong or dead when the test wants it."""

import queue
import threading

import grpc

from harness import control_grpc, control_pb


class PlayedRank:
    """One stream to the coordinator. `serve()` goes through all of a rank's life."""

    def __init__(self, address, rank=0, world=1, launch="launch", replica="0", version=2, host="stage",
                 pid=0):
        self.channel = grpc.insecure_channel(address)
        self.outgoing = queue.SimpleQueue()
        self.stream = control_grpc.WorkerControlStub(self.channel).Attach(
            iter(self.outgoing.get, None))
        self.plans = []
        self.say(hello=control_pb.Hello(protocol_version=version, launch_id=launch, rank=rank,
                                        world_size=world, host=host, device="played",
                                        replica=replica, pid=pid))
        self.beating = threading.Event()
        self.heart = threading.Thread(target=self.beat, daemon=True)
        self.heart.start()

    def beat(self):
        while not self.beating.wait(0.1):
            self.say(heartbeat=control_pb.Heartbeat())

    def say(self, **body):
        self.outgoing.put(control_pb.WorkerMessage(**body))

    def hear(self):
        return next(self.stream)

    def end(self):
        """(code, message) with which the coordinator ends the stream."""
        try:
            for _ in self.stream:
                pass
        except grpc.RpcError as error:
            return error.code(), error.details()
        return grpc.StatusCode.OK, ""

    def start(self, kv_blocks=1000):
        assert self.hear().HasField("load")
        self.say(loaded=control_pb.Loaded(kv_blocks=kv_blocks, weight_bytes=1, seconds=1))
        assert self.hear().start.kv_blocks == kv_blocks
        self.say(ready=control_pb.Ready())

    def answer(self, plan, token=5):
        sampled = [control_pb.SampledToken(slot=work.slot, token=token)
                   for work in plan.work if work.sample]
        self.say(result=control_pb.StepResult(epoch=plan.epoch, step=plan.step, sampled=sampled))

    def serve(self, token=5):
        """Starts, and answers every step from a thread until the stream ends."""
        self.start()

        def run():
            try:
                for message in self.stream:
                    if message.HasField("step"):
                        self.plans.append(message.step)
                        self.answer(message.step, token)
            except grpc.RpcError:
                pass

        self.thread = threading.Thread(target=run)
        self.thread.start()
        return self

    def fall_silent(self):
        """No heartbeat from now on."""
        self.beating.set()
        self.heart.join()

    def leave(self):
        self.fall_silent()
        self.stream.cancel()
        self.outgoing.put(None)
        self.channel.close()
        if hasattr(self, "thread"):
            self.thread.join()
