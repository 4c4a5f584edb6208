"""stub"""


def save(data, folder):
    pass
