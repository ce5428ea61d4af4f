"""How to tell a file that Git LFS left in the place of one that it did not fetch."""

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
GIT_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
