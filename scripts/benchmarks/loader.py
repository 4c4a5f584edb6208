"""The plain loop, fed as existing frameworks feed it.

A data set gives single examples, torchvision transforms them, and a DataLoader makes batches.
"""

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import clfunc as cl
from benchmarks.cases import Job
from benchmarks.contender import Contender
from benchmarks.plain import Batches, looped

# Stock torchvision cannot be imported beside a CPU-only torch.
from clfunc.datasets.torchvision import _import_torchvision


class Images(Dataset):
    """Single images, as `torchvision.datasets.FashionMNIST` gives them."""

    def __init__(self, x: Tensor, y: Tensor, transform) -> None:
        self.x = x
        self.y = y
        self.transform = transform

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.x[index].numpy(), mode="L")
        return self.transform(image), int(self.y[index])


def loader(job: Job) -> Contender:
    """The loop of `plain`, fed by a DataLoader without workers."""
    data = images(job)
    device = job.stream.train.device

    def batches(entries: Tensor) -> Batches:
        for x, y in DataLoader(data, batch_sampler=entries.tolist()):
            yield x.to(device), y.to(device)

    return looped(job, "loader", batches)._replace(share=4)


def images(job: Job) -> Dataset:
    """The examples of the job's task, one at a time."""
    view = cl.tree.to(cl.tree.index(job.many(job.stream.view), 0), "cpu")
    if job.case.data == "bits":
        return TensorDataset(view["x"][view["rows"]], view["y"][view["rows"]])
    _import_torchvision()
    from torchvision import transforms

    def permuted(image: Tensor) -> Tensor:
        return image.flatten()[view["pixels"]].reshape(image.shape)

    mean = float(view["mean"]) / 255
    std = float(view["std"]) / 255
    steps = [
        transforms.ToTensor(),
        transforms.Normalize((mean,), (std,)),
        transforms.Lambda(permuted),
    ]
    stored = cl.tree.to(job.scenario.data, "cpu")
    return Images(stored.x[:, 0], view["labels"][stored.y], transforms.Compose(steps))
