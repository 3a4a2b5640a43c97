"""A stand-in for llama-cpp-python, which has to be compiled: the names that its Haystack component imports."""


def __getattr__(name):
    return type(name, (), {})
