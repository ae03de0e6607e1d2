"""Relative LODO written down a second time: NumPy, float64, explicit matrices, finite differences; no code shared."""

import numpy as np


def matrices(theta, forward):
    """The layers B(θ⁽ⁱ⁾) Pᵢ as matrices [ñ, ñ]."""
    layers = []
    for weights, permutation in zip(np.asarray(theta), np.asarray(forward), strict=True):
        k, _, blocks = weights.shape
        block_diagonal = np.zeros((k * blocks, k * blocks))
        for b in range(blocks):
            of_block = np.arange(k) * blocks + b
            block_diagonal[np.ix_(of_block, of_block)] = weights[:, :, b].T
        layers.append(block_diagonal @ np.eye(k * blocks)[permutation])
    return layers


def operator(theta, forward, n):
    """S [n, n] and log|det Ĝ|."""
    product = np.eye(np.asarray(forward).shape[1])
    for layer in matrices(theta, forward):
        product = layer @ product
    return (product.T @ product)[:n, :n], np.linalg.slogdet(product)[1]


def objective(theta, forward, g, m, d, nu, w):
    """What a relative step ascends: ⟨g, S m⟩ n/ν − w (n/2 ‖S m‖² / ‖d‖² − log det S), d held fixed."""
    n = len(g)
    s, log_det = operator(theta, forward, n)
    out = s @ m
    return n * (g @ out) / nu - w * (n / 2 * (out @ out) / (d @ d) - 2 * log_det)


def derivative(theta, forward, g, m, d, nu, w, learned, step=1e-6):
    """E[i, o, p, b] by central differences along B → (I + ε e_o e_pᵀ) B."""
    theta = np.asarray(theta, np.float64)
    e = np.zeros_like(theta)
    depth, k = theta.shape[:2]
    for i in range(depth):
        for b in range(learned):
            for o in range(k):
                for p in range(k):
                    values = []
                    for sign in (1, -1):
                        moved = theta.copy()
                        # B[o, :] += ε B[p, :], with B[o, a] = theta[a, o].
                        moved[i, :, o, b] += sign * step * theta[i, :, p, b]
                        values.append(objective(moved, forward, g, m, d, nu, w))
                    e[i, o, p, b] = (values[0] - values[1]) / (2 * step)
    return e


class Twin:
    """One run; the constants are those of the formula, written out again."""

    def __init__(self, theta, forward, x0, rate, whitening="auto", momentum="auto", alpha0="auto"):
        self.theta, self.forward = np.array(theta, np.float64), np.asarray(forward)
        self.n = n = len(x0)
        self.blocks = self.theta.shape[-1] - (self.theta.shape[1] * self.theta.shape[3] > n)
        self.rate, self.whitening, self.momentum, self.alpha0 = rate, whitening, momentum, alpha0
        self.first = 1e-3 * max(np.linalg.norm(x0), 0.01 * np.sqrt(n))
        self.beta = 0.9 if momentum == "auto" else momentum
        self.alpha = 0.0 if alpha0 == "auto" else alpha0
        self.s, self.t, self.omega = 0.0, 0, 0.0
        self.m = self.d = self.before = self.q = np.zeros(n)
        self.lengths, self.products, self.squares = [], [], []

    @staticmethod
    def mean(values, decay):
        """Of all values, weighted by powers of the decay."""
        weights = decay ** np.arange(len(values))[::-1]
        return np.tensordot(weights, np.array(values), 1) / weights.sum()

    def closed_form(self, p):
        """E from the outer products of what the explicit layers put out."""
        layers = matrices(self.theta, self.forward)
        e = np.zeros_like(self.theta)
        k, blocks = self.theta.shape[1], self.theta.shape[3]

        def ways(v):
            v = np.concatenate([v, np.zeros(k * blocks - self.n)])
            ups = []
            for layer in layers:
                v = layer @ v
                ups.append(v)
            downs = []
            for layer in layers[::-1]:
                downs.insert(0, v)
                v = layer.T @ v
            return ups, downs

        (y_m, d_m), (y_p, d_p) = ways(self.m), ways(p)
        for i in range(len(layers)):
            for b in range(self.blocks):
                of = np.arange(k) * blocks + b
                e[i, :, :, b] = np.outer(d_p[i][of], y_m[i][of]) + np.outer(d_m[i][of], y_p[i][of])
        return e

    def step(self, g):
        """The step that follows from a gradient."""
        n, t = self.n, self.t
        length = np.linalg.norm(g)
        if t > 0:
            g = g * min(1.0, 5 * self.mean(self.lengths, 0.9) / length)
        self.lengths.append(np.linalg.norm(g))
        if t > 0:
            product = np.linalg.norm(g) * np.linalg.norm(self.d)
            nu = self.mean(self.products, 0.95) if t > 1 else product
            self.products.append(product)
            w = (1 - self.beta) ** 4 * np.exp(self.omega) if self.whitening == "auto" else self.whitening
            rate, speed = self.rate(t) * np.sqrt(1 - self.beta), 0.1 / np.sqrt(1 + t / 1000)
            cosine = g @ self.d / nu
            self.s += speed * np.clip(cosine, -1, 1)
            if self.momentum == "auto" and t > 1:
                logit = np.log(self.beta / (1 - self.beta))
                logit += speed * (np.clip(g @ self.before / nu - cosine, -1, 1) + 0.01)
                self.beta = np.clip(1 / (1 + np.exp(-logit)), 0.0067, 0.9)
            if t > 16 and t % 16 >= 4:
                loss, white = n * np.outer(g, self.d) / nu, np.eye(n) - n * np.outer(self.q, self.q) / (self.q @ self.q)
                self.omega = np.clip(self.omega + 0.01 * np.clip((loss * white).sum() / n, -1, 1), -7, 0)
            if t % 16 == 0:
                self.q = self.d
            e = self.closed_form(n * g / nu - w * n * self.d / (self.d @ self.d))
            for a in range(e.shape[1]):
                e[:, a, a, : self.blocks] += 2 * w
            self.last_e = (e, (self.theta.copy(), self.forward, g, self.m, self.d, nu, w, self.blocks))
            self.squares.append((e**2).mean(axis=(1, 2)))
            r = np.sqrt(self.mean(self.squares, 0.8))[:, None, None]
            f = rate * e / np.where(r > 0, r, np.inf)
            # B ← (I + F) B, block by block, with B[o, a] = theta[a, o].
            self.theta = self.theta + np.einsum("iopb,iapb->iaob", f, self.theta)
        self.m = self.beta * self.m + (1 - self.beta) * g
        self.before, self.d = self.d, operator(self.theta, self.forward, n)[0] @ self.m
        if self.alpha0 == "auto" and self.alpha == 0:
            self.alpha = self.first / np.linalg.norm(self.d) if np.any(self.d) else 0.0
        self.t += 1
        return -self.alpha * np.exp(self.s) * self.d
