"""The layout of Market-1501: its usual folders and its published counts."""

from data.raw import Counts, MarketLayout

LAYOUT = MarketLayout(
  dataset='market1501',
  title='Market-1501',
  homepage='https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html',
  how_to_get="""\
Download Market-1501 by hand from the page of its authors
(https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html) and unpack it.
Then set --config.data.dir to the folder Market-1501-v15.09.15 or its parent.
For your own images, in this layout or another, use configs/folder.py.""",
  nested=(
    'Market-1501-v15.09.15',
    'market1501/Market-1501-v15.09.15',
    'market1501',
    'Market-1501',
    'market',
  ),
  more_queries_folder='gt_bbox',
  # Zheng et al., ICCV 2015.
  published={
    'train': Counts(12_936, 751, 6),
    'query': Counts(3_368, 750, 6),
    'gallery': Counts(19_732, 750, 6, distractors=2_798, junk=3_819),
  },
)
