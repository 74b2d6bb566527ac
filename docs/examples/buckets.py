"""A cache in a bucket: build it there, look into it, train on a copy that is fetched once.

pip install obstore 'fsspec[http]'
python docs/examples/buckets.py RECORDINGS s3://lab/summer       (credentials as for the AWS command line)
"""

import sys

import summer_prep
import summer_train


def main() -> None:
    """Build, look, train."""
    recordings, bucket = sys.argv[1:]
    for key in summer_prep.build(data_dir=recordings, cache_dir=bucket, patient_ids=14, bin_length=80, workers=1):
        print(key.patient_id, key.bin_length_ms, key.state, key.message)

    group = summer_prep.open_key(bucket, 14, 80)  # reads what is asked for, over the network
    print(f"{int(group['spike_counts'][:1000].sum())} spikes in the first 1,000 bins")

    result = summer_train.fit(  # fetches the key once into ~/.cache/summer-pipeline and maps it from there
        task="label",
        label_name="summer",
        patient_ids=14,
        cache_dir=bucket,
        data_dir=recordings,
        buffer=10,
        max_epochs=2,
    )
    print(f"test kappa {result.scores['model']['test']['kappa']:.2f}, {result.log_dir}")


if __name__ == "__main__":
    main()
