"""The plain loop as existing frameworks feed it: a data set of single examples, torchvision's transforms, a DataLoader."""

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import clfunc as cl
from benchmarks.cases import Job
from benchmarks.contender import Contender
from benchmarks.plain import Batches, looped
from clfunc.datasets.torchvision import (
    _import_torchvision,  # stock torchvision does not import beside a CPU-only torch
)


class Images(Dataset):
    """An image at a time, as `torchvision.datasets.FashionMNIST` gives them."""

    def __init__(self, x: Tensor, y: Tensor, transform) -> None:
        self.x, self.y, self.transform = x, y, transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.x[index].numpy(), mode="L")), int(self.y[index])


def loader(job: Job) -> Contender:
    """`plain`, fed by a DataLoader without workers."""
    data, device = images(job), job.stream.train.device

    def batches(entries: Tensor) -> Batches:
        for x, y in DataLoader(data, batch_sampler=entries.tolist()):
            yield x.to(device), y.to(device)

    return looped(job, "loader", batches)._replace(share=4)


def images(job: Job) -> Dataset:
    view = cl.tree.to(cl.tree.index(job.many(job.stream.view), 0), "cpu")
    if job.case.data == "bits":
        return TensorDataset(view["x"][view["rows"]], view["y"][view["rows"]])
    _import_torchvision()
    from torchvision import transforms

    def permuted(image: Tensor) -> Tensor:
        return image.flatten()[view["pixels"]].reshape(image.shape)

    mean, std = float(view["mean"]) / 255, float(view["std"]) / 255
    steps = [
        transforms.ToTensor(),
        transforms.Normalize((mean,), (std,)),
        transforms.Lambda(permuted),
    ]
    stored = cl.tree.to(job.scenario.data, "cpu")
    return Images(stored.x[:, 0], view["labels"][stored.y], transforms.Compose(steps))
