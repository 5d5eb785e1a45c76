"""Kernels of decimation: what merging two neighbours would cost, and which pairs are merged.

A Gaussian counts with its weight, how much of a picture it fills. Two of them become the one Gaussian with
the same weight, mean and covariance; what that loses is bounded by Runnalls ("Kullback-Leibler approach to
Gaussian mixture reduction", 2007), and their difference in colour is added.

Covariances are six numbers: xx, xy, xz, yy, yz, zz.
"""

from __future__ import annotations

import numpy as np

from spaceport_lab.kernels.compiling import kernel


@kernel(inline=True)
def _determinant(xx, xy, xz, yy, yz, zz, grain):
    """Of a covariance blurred by `grain`, a variance."""
    xx, yy, zz = xx + grain, yy + grain, zz + grain
    return xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)


@kernel(inline=True)
def area(xx, xy, xz, yy, yz, zz):
    """Of the three sections through a covariance's axes, root of the sum of squares: for a disc its own."""
    minors = xx * yy - xy * xy + xx * zz - xz * xz + yy * zz - yz * yz
    return np.sqrt(max(minors, 0.0))


@kernel()
def areas(covs, out):
    """`area` of each covariance [N, 6]."""
    for i in range(len(covs)):
        out[i] = area(covs[i, 0], covs[i, 1], covs[i, 2], covs[i, 3], covs[i, 4], covs[i, 5])


@kernel()
def merge_costs(means, covs, weights, colors, neighbours, grain, contrast, costs):
    """costs [N, K] of merging each Gaussian with each of its neighbours [N, K]; infinite where there is none.

    grain: variance by which both are blurred before they are compared, as a share of the merged one's area:
    a disc may become a little thicker, which nobody sees, where without it any thickness would be dear.
    contrast: how much a difference in colour counts.
    """
    n, k = neighbours.shape
    for i in range(n):
        for slot in range(k):
            j = neighbours[i, slot]
            if j < 0 or j >= n or j == i:
                costs[i, slot] = np.inf
                continue
            total = weights[i] + weights[j]
            p, q = weights[i] / total, weights[j] / total
            x, y, z = (means[i, 0] - means[j, 0], means[i, 1] - means[j, 1], means[i, 2] - means[j, 2])
            pq = p * q
            a, b = covs[i], covs[j]
            xx = p * a[0] + q * b[0] + pq * x * x
            xy = p * a[1] + q * b[1] + pq * x * y
            xz = p * a[2] + q * b[2] + pq * x * z
            yy = p * a[3] + q * b[3] + pq * y * y
            yz = p * a[4] + q * b[4] + pq * y * z
            zz = p * a[5] + q * b[5] + pq * z * z
            blur = grain * area(xx, xy, xz, yy, yz, zz) + 1e-30
            merged = np.log(_determinant(xx, xy, xz, yy, yz, zz, blur))
            first = np.log(_determinant(a[0], a[1], a[2], a[3], a[4], a[5], blur))
            second = np.log(_determinant(b[0], b[1], b[2], b[3], b[4], b[5], blur))
            cost = 0.5 * total * (merged - p * first - q * second)
            r, g, u = (colors[i, 0] - colors[j, 0], colors[i, 1] - colors[j, 1], colors[i, 2] - colors[j, 2])
            costs[i, slot] = cost + contrast * total * pq * (r * r + g * g + u * u)


@kernel()
def match(order, k, neighbours, wanted, partner):
    """Pair Gaussians off, cheapest first, until `wanted` pairs are found; returns how many were.

    order: edge numbers (row · k + slot) by rising cost. partner [N] holds -1 and is filled in on the row that
    stays; the other one's holds -2.
    """
    found = 0
    for edge in order:
        if found == wanted:
            break
        i = edge // k
        j = neighbours[i, edge % k]
        if partner[i] == -1 and partner[j] == -1:
            low, high = min(i, j), max(i, j)
            partner[low], partner[high] = high, -2
            found += 1
    return found
