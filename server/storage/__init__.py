"""Where finished pictures are kept until their URLs expire, and the signatures on those URLs."""
