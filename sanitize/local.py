"""Jobs on this machine: threads with a worker each, and each answer as it comes."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ckptool.report import Report
from ckptool.sanitize.answer import answer
from ckptool.sanitize.job import Job
from ckptool.sanitize.process.worker import Worker

Answers = queue.SimpleQueue[Report | BaseException | None]


@dataclass(slots=True, eq=False)
class Local:
    """As many files at once as there are workers."""

    workers: int
    crew: list[Worker] = field(default_factory=list)

    @property
    def network(self) -> bool:
        """Whether some process of a file could reach the network; known when the jobs are done."""
        return any(worker.network for worker in self.crew)

    def reports(self, jobs: Sequence[Job]) -> Iterator[Report]:
        """The report of each job as it is done; closing the iterator ends every process."""
        answers: Answers = queue.SimpleQueue()
        stop = threading.Event()
        waiting, lock = iter(jobs), threading.Lock()

        def following() -> Job | None:
            with lock:
                return None if stop.is_set() else next(waiting, None)

        def work(worker: Worker) -> None:
            try:
                while (job := following()) is not None:
                    answers.put(answer(worker, job))
            except BaseException as error:  # nobody else would hear of it
                answers.put(error)
            finally:
                worker.close()
                answers.put(None)

        self.crew = [Worker(stop.is_set) for _ in range(max(1, min(self.workers, len(jobs))))]
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in self.crew]
        for thread in threads:
            thread.start()
        try:
            yield from collected(answers, len(threads))
        finally:
            stop.set()
            for worker in self.crew:
                worker.close()
            for thread in threads:
                thread.join()


def collected(answers: Answers, running: int) -> Iterator[Report]:
    while running:
        found = answers.get()
        if found is None:
            running -= 1
        elif isinstance(found, BaseException):
            raise found
        else:
            yield found
