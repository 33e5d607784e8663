"""The data path at its default sizes: preparing JPEG photographs (prepare.py), then feeding images (feed.py).

python benchmarks/data.py
"""

import feed
import prepare

if __name__ == "__main__":
    prepare.main()
    print()
    feed.main()
