"""Reads a histogram log with HdrHistogram's own reader and tells what is in it, as JSON.

In: the path of a log. Out: the number of intervals, of values, and what they are like. No percentiles: two libraries may
take either of two neighbours for one.
"""

import json
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

total = HdrHistogram(1, 60_000_000, 3)
reader = HistogramLogReader(sys.argv[1], total)
intervals = 0
starts = []
while True:
    interval = reader.get_next_interval_histogram()
    if interval is None:
        break
    intervals += 1
    starts.append(interval.get_start_time_stamp())
    total.add(interval)
print(json.dumps({
    "intervals": intervals,
    "ascending": starts == sorted(starts),
    "count": total.get_total_count(),
    "mean": total.get_mean_value(),
    "min": total.get_min_value(),
    "max": total.get_max_value(),
}))
