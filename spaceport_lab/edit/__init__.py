"""Change a splat: clean it, move it, put splats together, make it smaller.

clean       leave out what is not finite, outside, too faint, or floating
transform   turn, move and scale, spherical harmonics included
decimate    fewer Gaussians by merging neighbours
merging     the kernels of that
formats     any splat file in, any splat file out
"""
