"""SRGAN's generator in Keras, layer by layer as the package super-resolution (krasserm) has it.

Runs in TensorFlow's own environment: it may import nothing of ours.
"""

import numpy as np


def keras_generator(file):
    """One picture after another, through a compiled function of a fixed shape."""
    import tensorflow as tf
    from safetensors.numpy import load_file

    network = build(load_file(file))

    @tf.function(reduce_retracing=True)
    def enlarge(picture):
        large = (network(tf.cast(picture[None], tf.float32) / 255, training=False) + 1) / 2
        return tf.cast(tf.round(large * 255), tf.uint8)[0]

    return lambda pictures: np.stack([enlarge(tf.constant(one)).numpy() for one in pictures])


def build(state, blocks=16):
    """The network with a state dict's weights: keras.Model of pictures in [0, 1] to [-1, 1]."""
    import keras
    import tensorflow as tf
    from keras import layers

    def conv(x, name, shuffled=False, **more):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        if shuffled:  # depth_to_space keeps the channel innermost, PixelShuffle outermost
            order = np.arange(len(bias)).reshape(-1, 4).T.reshape(-1)
            weight, bias = weight[order], bias[order]
        layer = layers.Conv2D(len(bias), weight.shape[-1], padding="same", **more)
        y = layer(x)
        layer.set_weights([weight.transpose(2, 3, 1, 0), bias])
        return y

    def norm(x, name):
        layer = layers.BatchNormalization(epsilon=1e-5)
        y = layer(x)
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([state[f"{name}.{part}"] for part in parts])
        return y

    def prelu(x, name):
        layer = layers.PReLU(shared_axes=[1, 2])
        y = layer(x)
        layer.set_weights([state[f"{name}.weight"].reshape(1, 1, -1)])
        return y

    inputs = layers.Input((None, None, 3))
    first = x = prelu(conv(inputs, "conv_in"), "prelu_in")
    for number in range(blocks):
        name = f"blocks.{number}"
        y = prelu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"), f"{name}.prelu")
        x = layers.Add()([x, norm(conv(y, f"{name}.conv2"), f"{name}.bn2")])
    x = layers.Add()([first, norm(conv(x, "conv_mid"), "bn_mid")])
    for number in range(2):
        x = conv(x, f"up.{number}.conv", shuffled=True)
        x = layers.Lambda(lambda x: tf.nn.depth_to_space(x, 2))(x)
        x = prelu(x, f"up.{number}.prelu")
    return keras.Model(inputs, conv(x, "conv_out", activation="tanh"))
