"""The wire contract: `.proto` files and the stubs made of them. Nothing here is written by hand."""
