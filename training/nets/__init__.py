"""The networks in plain torch, with the state-dict keys of the stock classes that later load the weights."""
