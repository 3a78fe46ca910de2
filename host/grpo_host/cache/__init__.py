"""Caches of JSON values: in memory, on disk between processes, and one before the other.

They implement ``grpo_sdk.cache.Cache``. docs/caching.md says what is cached and when that is safe.
"""

from grpo_host.cache.disk import DiskCache
from grpo_host.cache.memory import MemoryCache
from grpo_host.cache.statistics import CacheStatistics
from grpo_host.cache.tiered import TieredCache
from grpo_host.cache.tools import cacheable

__all__ = ["CacheStatistics", "DiskCache", "MemoryCache", "TieredCache", "cacheable"]
