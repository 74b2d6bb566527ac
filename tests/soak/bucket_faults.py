"""Publish keys to a real S3 server whose network, answers and clients fail at random, and look at what readers see.

    python tests/soak/bucket_faults.py [--faults 200] [--seed 0]

After every fault the key is the whole old or the whole new one, and every error is one line. Exit code 1 otherwise.
"""

import argparse
import os
import random
import tempfile
import uuid
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import summer_prep
from summer_prep.cache.bucket import BucketCache
from summer_prep.cache.layout import key_path
from summer_prep.errors import SummerError
from summer_prep.urls import CLIENT, Url
from tests.s3 import CREDENTIALS, S3, Faults, kill
from tests.summer_prep.test_bucket import files_of, publish, stands, start_publisher

KINDS = ("killed", "503", "slow", "cut", "lost", "unheard", "403", "flip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, outcomes = random.Random(options.seed), Counter()
    CLIENT["retry_config"] = {"max_retries": 2, "retry_timeout": timedelta(seconds=3)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = S3(folder / "log")
        faults = Faults(server)
        bucket = f"lab-{uuid.uuid4().hex[:8]}"
        server.new_bucket(bucket)
        os.environ.update(CREDENTIALS, AWS_ENDPOINT=faults.endpoint)
        summer_prep.demo_data(folder / "nwb", patients=1, minutes=2, units=5)
        versions = []
        for codec in ("none", "zstd"):
            cache_dir = folder / codec
            summer_prep.build(data_dir=folder / "nwb", cache_dir=cache_dir, bin_length=1000, codec=codec, workers=0)
            versions.append(files_of(key_path(cache_dir, "14", 1000)))
        cache = BucketCache(Url(f"s3://{bucket}/summer"), folder / "local")
        publish(cache, versions[0])
        for number in range(options.faults):
            old, new = versions[number % 2], versions[(number + 1) % 2]
            kind = chance.choice(KINDS)
            at, method = chance.randint(1, len(new) + 3), "PUT"
            builder = []

            def fail(asked, _path, count, kind=kind, at=at, builder=builder):
                if kind == "killed" and asked == method and count == at:
                    kill(builder[0].pid)
                    return "unheard"
                lasting = kind in ("403", "unheard") and count >= at
                return kind if kind != "killed" and (count == at or lasting) else None

            faults.set(fail)
            if kind == "killed":
                builder.append(start_publisher(cache, new, folder))
                outcome = "killed" if builder[0].wait() else "published"
            else:
                try:
                    publish(cache, new)
                    outcome = "published"
                except SummerError as error:
                    outcome = "one line" if "\n" not in str(error) else "many lines"
                with suppress(SummerError):
                    cache.fetch("14", 1000)
            faults.clear()
            seen = stands(cache)
            assert seen in (old, new), f"fault {number} ({kind} at {at}): neither the old nor the new key"
            assert outcome != "published" or seen == new, f"fault {number} ({kind} at {at}): lost"
            assert outcome != "many lines"
            outcomes[kind, outcome] += 1
            publish(cache, new)
            if number % 10 == 0:
                cache.collect_garbage(now=datetime.now(UTC) + timedelta(days=2))
                assert stands(cache) == new
        faults.close()
        server.close()
    for (kind, outcome), n_times in sorted(outcomes.items()):
        print(f"{kind:8} {outcome:10} {n_times}")
    print(f"{options.faults} faults: nothing half-visible, nothing lost")


if __name__ == "__main__":
    main()
