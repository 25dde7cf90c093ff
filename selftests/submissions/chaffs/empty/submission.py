# the case
