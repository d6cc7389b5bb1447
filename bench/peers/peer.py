"""One contender of a benchmark: a library behind JSON lines, asked on stdin and answered on stdout.

    peer.py NAME

Every request is one object with an "op"; every answer is one object, {"error": TEXT} where it failed:

    load    base, queries (files of float32 rows), metric ("euclidean" or "dot"), k   -> version
    build   threads, scratch (a file to write and remove)                             -> seconds, bytes
    pin     core                                                                      -> (nothing)
    search  beam, ids (a file to write)                                               -> seconds
    time    beam, passes, warm_up                              -> seconds, core_seconds (on the core), of all passes

A search hands all queries to the library in one call with one thread: Python costs a contender nothing that
matters. Times are those of the calls alone. Vectors come as unit vectors where the set's metric is cosine.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback

import numpy as np

M = 16
EF_CONSTRUCTION = 200


class Hnswlib:
    package = "hnswlib"

    def __init__(self, dim, metric):
        import hnswlib

        self.index = hnswlib.Index(space={"euclidean": "l2", "dot": "ip"}[metric], dim=dim)

    def build(self, base, threads):
        self.index.init_index(max_elements=len(base), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
        self.index.add_items(base, num_threads=threads)

    def save(self, path):
        self.index.save_index(path)

    def set_beam(self, beam):
        self.index.set_ef(beam)

    def search(self, queries, k):
        return self.index.knn_query(queries, k=k, num_threads=1)[0]


class Faiss:
    package = "faiss-cpu"

    def __init__(self, dim, metric):
        import faiss

        self.faiss = faiss
        self.index = faiss.IndexHNSWFlat(dim, M, {"euclidean": faiss.METRIC_L2, "dot": faiss.METRIC_INNER_PRODUCT}[metric])
        self.index.hnsw.efConstruction = EF_CONSTRUCTION

    def build(self, base, threads):
        self.faiss.omp_set_num_threads(threads)
        self.index.add(base)
        self.faiss.omp_set_num_threads(1)

    def save(self, path):
        self.faiss.write_index(self.index, path)

    def set_beam(self, beam):
        self.index.hnsw.efSearch = beam

    def search(self, queries, k):
        return self.index.search(queries, k)[1]


class Symqg:
    package = "rabitqlib"
    degree = 32
    bits = 0  # of the vector in a block; 0 keeps float32

    def __init__(self, dim, metric):
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(dim, self.degree, {"euclidean": "l2", "dot": "ip"}[metric], self.bits)

    def build(self, base, threads):
        self.index.build(base, EF_CONSTRUCTION, threads)

    def save(self, path):
        self.index.save(path)

    def set_beam(self, beam):
        self.beam = beam

    def search(self, queries, k):
        first, second = self.index.search(queries, k, self.beam, 1)
        return first if first.dtype.kind in "iu" else second


class Symqg8(Symqg):
    bits = 8


class Usearch:
    package = "usearch"

    def __init__(self, dim, metric):
        from usearch.index import Index

        metric = {"euclidean": "l2sq", "dot": "ip"}[metric]
        self.index = Index(
            ndim=dim, metric=metric, dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION, expansion_search=64
        )

    def build(self, base, threads):
        self.index.add(np.arange(len(base), dtype=np.uint64), base, threads=threads)

    def save(self, path):
        self.index.save(path)

    def set_beam(self, beam):
        self.index.expansion_search = beam

    def search(self, queries, k):
        return self.index.search(queries, k, threads=1).keys.astype(np.int64)


LIBRARIES = {"hnswlib": Hnswlib, "faiss": Faiss, "symqg": Symqg, "symqg8": Symqg8, "usearch": Usearch}


class Peer:
    def __init__(self, name):
        self.library = LIBRARIES[name]

    def load(self, base, queries, metric, k):
        self.base, self.queries, self.k = np.load(base), np.load(queries), k
        self.index = self.library(self.base.shape[1], metric)
        return {"version": importlib.metadata.version(self.library.package)}

    def build(self, threads, scratch):
        start = time.perf_counter()
        self.index.build(self.base, threads)
        seconds = time.perf_counter() - start
        self.base = None
        self.index.save(scratch)
        size = os.path.getsize(scratch)
        os.remove(scratch)
        return {"seconds": seconds, "bytes": size}

    def pin(self, core):
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        return {}

    def search(self, beam, ids):
        self.index.set_beam(beam)
        start = time.perf_counter()
        found = self.index.search(self.queries, self.k)
        seconds = time.perf_counter() - start
        np.save(ids, np.ascontiguousarray(found, dtype=np.int64))
        return {"seconds": seconds}

    def time(self, beam, passes, warm_up):
        self.index.set_beam(beam)
        self.index.search(self.queries[:warm_up], self.k)
        start, core_start = time.perf_counter(), time.process_time()
        for _ in range(passes):
            self.index.search(self.queries, self.k)
        return {"core_seconds": time.process_time() - core_start, "seconds": time.perf_counter() - start}


def main():
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("op"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
