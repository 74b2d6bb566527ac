"""Keys that are written once more with something changed."""

from summer_prep.cache.layout import describe, key_path
from summer_prep.cache.publish import publish
from summer_prep.cache.write import encode_key, read_array

_OF_WRITING = {"files", "digests", "coordinates", "document_sha256"}


def rewrite_key(cache, patient_id, bin_length_ms, change=lambda arrays: None, **attributes):
    """Write a key of a cache again: `change` takes its arrays by name, further attributes replace its own."""
    key = key_path(cache, patient_id, bin_length_ms)
    own = describe(key).attributes
    arrays = {name: read_array(key, name) for name in own["digests"]}
    change(arrays)
    kept = {name: value for name, value in own.items() if name not in _OF_WRITING}
    publish(key, encode_key(arrays, {**kept, **attributes}))
