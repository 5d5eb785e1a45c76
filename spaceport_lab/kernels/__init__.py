"""The CPU rasterizer: numba kernels, arrays in, arrays out; no torch here.

compiling      how kernels are compiled, and where the machine code is kept
threads        a pool of Python threads that runs kernels without the GIL
vector         sixteen float32 numbers as one value inside a kernel
vector_memory  how such values come from memory and go there
vector_math    functions of them, and tuples of them
vector_rows    sixteen records, or the pixels of a block, as vectors of their fields
layout         what stands where in the arrays that kernels pass to each other
projection     Gaussians to ellipses on the image (EWA splatting), and its gradient
harmonics      spherical harmonics to colours, and their gradient
binning        which ellipse touches which tile, nearest first
tiles          how a tile lies in memory, and which entries and blocks count
raster         tiles to pixels, and their gradient
render         one frame: the order in which the above are used
loss           L1 + SSIM with its gradient
finite         whether an array holds NaN or Inf
"""
