"""`python -m rkllm_convert` is `rkllm-convert`."""

from rkllm_convert.cli import main

if __name__ == "__main__":
    main()
