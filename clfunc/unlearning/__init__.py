"""Unlearning: records of updates, forget sets, compensation, and what is measured after a task is
forgotten.
"""

from clfunc.unlearning.measures import above_chance as above_chance
from clfunc.unlearning.measures import accuracy_gain as accuracy_gain
from clfunc.unlearning.measures import cka as cka
from clfunc.unlearning.measures import cosine as cosine
from clfunc.unlearning.measures import distances as distances
from clfunc.unlearning.measures import euclidean as euclidean
from clfunc.unlearning.measures import manhattan as manhattan
from clfunc.unlearning.measures import mean_over as mean_over
from clfunc.unlearning.measures import membership_advantage as membership_advantage
from clfunc.unlearning.measures import membership_auc as membership_auc
from clfunc.unlearning.measures import residual as residual
